"""What tasks may cost: the section `tasks` of the settings."""

from pydantic import BaseModel, ConfigDict, Field


class TaskSettings(BaseModel):
    """Files, and batches of requests."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file_bytes: int = Field(200 << 20, ge=1, description="Longest file that may be uploaded.")
    user_bytes: int = Field(2 << 30, ge=1, description="What one person's files may take together, results included.")
    most_live: int = Field(20, ge=1, description="Tasks that one person may have under way or waiting.")
    most_lines: int = Field(100_000, ge=1, description="Lines of a batch.")
    line_bytes: int = Field(4 << 20, ge=1024, description="Longest line of a batch.")
    per_replica: int = Field(
        16, ge=1, description="Lines of a batch that one replica is asked at once, unless its recipe's replicas say."
    )
    tries: int = Field(5, ge=1, description="How often a line is asked that gets no answer, or one of 500 and above.")
    model_seconds: float = Field(
        30.0, ge=0, description="How long a line waits for a model that nobody serves before that is its error."
    )
    at_once: int = Field(
        8, ge=0, description="Tasks that one client service works on at once; others wait. 0: it leaves them to others."
    )
    lease_seconds: float = Field(
        10.0, ge=1, description="How long after its last sign of life a client service keeps a task from the others."
    )
    keep_days: float = Field(30, gt=0, description="How long files and ended tasks are kept.")
