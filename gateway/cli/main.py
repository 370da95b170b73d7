"""`sluice`: the table of commands. Their modules are imported when they are run."""

import click

from gateway.cli.lazy import Entry, LazyGroup

SECTIONS = {
    "Start here": {
        "up": Entry("gateway.cli.up:up", "Bring up a cluster, the gateway and a demo model."),
        "down": Entry("gateway.cli.down:down", "End what `up` started."),
        "status": Entry("gateway.cli.status:status", "Gateway, clusters, free GPUs and your sessions."),
    },
    "Sessions": {
        "launch": Entry("gateway.cli.launch:launch", "Start a session from a recipe."),
        "list": Entry("gateway.cli.list:list_", "List your sessions."),
        "show": Entry("gateway.cli.show:show", "Show all about one session."),
        "logs": Entry("gateway.cli.logs:logs", "Show or follow a session's log."),
        "events": Entry("gateway.cli.events:events", "Show or follow what happens to sessions."),
        "wait": Entry("gateway.cli.wait:wait", "Wait until a session is ready or has ended."),
        "chat": Entry("gateway.cli.chat:chat", "Talk to a model that a session serves."),
        "bench": Entry("gateway.cli.bench:bench", "Measure how fast a session answers."),
        "batch": Entry("gateway.cli.batch:batch", "Ask a session many things: JSONL in, JSONL out."),
        "open": Entry("gateway.cli.open:open_", "Open a session's pages in a browser."),
        "exec": Entry("gateway.cli.exec:exec_", "Run a command in a running session's job."),
        "shell": Entry("gateway.cli.exec:shell", "Open a shell in a running session's job."),
        "forward": Entry("gateway.cli.forward:forward", "Reach ports of a running session's job from here."),
        "scale": Entry("gateway.cli.scaling:scale", "Let more or fewer jobs serve a session."),
        "update": Entry("gateway.cli.scaling:update", "Change what a session runs, without a gap."),
        "extend": Entry("gateway.cli.scaling:extend", "Keep a session that nobody uses."),
        "stop": Entry("gateway.cli.stop:stop", "Stop sessions."),
        "resume": Entry("gateway.cli.scaling:resume", "Start an ended session again."),
        "delete": Entry("gateway.cli.delete:delete", "Forget ended sessions."),
    },
    "Recipes and images": {
        "recipe": Entry("gateway.cli.recipe:recipe", "List, show, check and render recipes."),
        "image": Entry("gateway.cli.image:image", "Build, import and list images."),
    },
    "People": {
        "login": Entry("gateway.cli.login:login", "Sign in with your institution's account."),
        "logout": Entry("gateway.cli.logout:logout", "Sign out."),
        "whoami": Entry("gateway.cli.whoami:whoami", "Who the gateway takes you for."),
        "token": Entry("gateway.cli.token:token", "Make, list and revoke tokens."),
        "secret": Entry("gateway.cli.secret:secret", "Named secrets of yours and of your projects."),
        "volume": Entry("gateway.cli.volume:volume", "Named directories of yours and of your projects."),
        "project": Entry("gateway.cli.project:project", "Projects, their members and Slurm accounts."),
        "policy": Entry("gateway.cli.policy:policy", "Who may do what, and why."),
        "user": Entry("gateway.cli.user:user", "Users: let in, keep out, take on and see off."),
    },
    "The gateway": {
        "cluster": Entry("gateway.cli.cluster:cluster", "A real Slurm cluster on this machine."),
        "serve": Entry("gateway.cli.serve:serve", "Run the services of the gateway."),
        "config": Entry("gateway.cli.config:config", "Show and check the settings."),
        "audit": Entry("gateway.cli.audit:audit", "Who did what, and what was refused."),
        "doctor": Entry("gateway.cli.doctor:doctor", "Check a cluster end to end and say what to change."),
        "env": Entry("gateway.cli.env:env", "Print addresses and token as export lines."),
        "completion": Entry("gateway.cli.completion:completion", "Print the shell's completion script."),
        "version": Entry("gateway.cli.version:version", "Print the version."),
    },
}


@click.group(
    cls=LazyGroup,
    sections=SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
def main() -> None:
    """Sluice: recipes become Slurm jobs, and jobs become sessions that you can use.

    Every command has --help, and most have --json for scripts. Exit codes: 0 done, 1 failed, 2 wrong usage,
    3 not found, 4 not allowed, 5 unavailable, 6 timed out, 7 wrong state, 130 interrupted.
    """


if __name__ == "__main__":
    main(prog_name="sluice")
