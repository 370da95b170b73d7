"""Images in the database: every digest of every name on every cluster, the newest being the one in use."""

from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select

from gateway.model.image import Image
from gateway.store.schema import images


def save(connection: Connection, image: Image) -> None:
    """Add an image, or replace what was known of the same digest under the same name."""
    remove(connection, image)
    connection.execute(insert(images).values(**image.model_dump()))


def remove(connection: Connection, image: Image) -> None:
    """Forget one image. The file is not touched."""
    connection.execute(
        delete(images).where(
            images.c.cluster == image.cluster, images.c.name == image.name, images.c.sha256 == image.sha256
        )
    )


def newest(connection: Connection, cluster: str, name: str) -> Image | None:
    """The image that the name means now."""
    return next(iter(every(connection, cluster, name)), None)


def every(connection: Connection, cluster: str | None = None, name: str | None = None) -> Sequence[Image]:
    """Images by cluster and name, the newest of a name first."""
    query = select(images).order_by(images.c.cluster, images.c.name, images.c.built_at.desc(), images.c.sha256)
    if cluster is not None:
        query = query.where(images.c.cluster == cluster)
    if name is not None:
        query = query.where(images.c.name == name)
    return [Image.model_validate(row, from_attributes=True) for row in connection.execute(query)]
