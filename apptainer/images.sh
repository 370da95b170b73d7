# Sluice's part of an image build: runs on the build host, as the user, by `sh -c`. Keeps images in one folder, each
# beside a note of what it is, so that whoever finds the folder knows its images:
#   <name>-<first 12 digits of its sha256>.sif  and  the same name with .json
#
# usage: build FOLDER NAME SOURCE FORCE COMPRESSION [ARGUMENT=VALUE ...] < context.tar.gz
#        list FOLDER                (says first where it is:  @folder PATH)
#        digest FILE
# An image that is found or made is told in one line:  @image PATH {"name": ..., "sha256": ..., ...}
set -eu
umask 022

fail() { echo "$*" >&2; exit 1; }

folder() {
    # shellcheck disable=SC2088  # the setting's own ~, which no shell has seen yet
    case $1 in "~/"*) dir=$HOME/${1#"~/"} ;; *) dir=$1 ;; esac
    mkdir -p "$dir" && cd "$dir" && dir=$(pwd -P) && cd - > /dev/null
}

notes() {          # ours alone: in a folder that others may write to, their word about an image is not taken
    find "$dir" -maxdepth 1 -type f -name "${1:-*}-????????????.json" -user "$(id -u)"
}

told() {           # the image of a note, if it is there, ours and as long as the note says
    image=${1%.json}.sif
    [ -n "$(find "$image" -maxdepth 0 -type f -user "$(id -u)" 2> /dev/null)" ] || return 1
    size=$(sed -n 's/.*"size": \([0-9]*\).*/\1/p' "$1")
    [ "$size" = "$(stat -c %s "$image")" ] || return 1
    echo "@image $image $(tr -d '\n' < "$1")"
}

# ---------------------------------------------------------------- list, digest

list() {
    folder "$1"
    echo "@folder $dir"
    notes | while read -r note; do told "$note" || true; done
}

digest() {
    [ -f "$1" ] || fail "there is no file $1 on $(hostname)"
    [ -r "$1" ] || fail "$(id -un) may not read $1"
    head -c 64 "$1" | grep -aq SIF_MAGIC || fail "$1 is not an Apptainer image (SIF)"
    echo "@image $1 {\"sha256\": \"$(sha256sum < "$1" | cut -c 1-64)\", \"size\": $(stat -c %s "$1"), \"modified\": $(stat -c %Y "$1")}"
}

# ---------------------------------------------------------------- build

now() { date -u +%Y-%m-%dT%H:%M:%SZ; }

made_from() {      # an image of this name that was built from the same; from now on the one that the name means
    notes "$1" | while read -r note; do
        grep -q "\"source\": \"$2\"" "$note" || continue
        told "$note" > /dev/null || continue
        if [ -n "$(notes "$1" | while read -r other; do find "$other" -newer "$note"; done)" ]; then
            sed "s/\"built_at\": \"[^\"]*\"/\"built_at\": \"$(now)\"/" "$note" > "$note.$$.part"
            chmod 644 "$note.$$.part"
            mv -f "$note.$$.part" "$note"
        fi
        told "$note"
        break
    done | grep .
}

clean() {          # files of other users inside the user's own id range need the range to be removed
    cd /
    rm -rf "$work" 2> /dev/null || unshare --map-auto --map-root-user rm -rf "$work" 2> /dev/null || true
    [ -z "${part:-}" ] || rm -f "$part"
}

mirror() {         # Debian's, as this machine's apt or the environment knows it
    [ -z "${SLUICE_DEBIAN_MIRROR:-}" ] || { echo "$SLUICE_DEBIAN_MIRROR"; return; }
    # shellcheck disable=SC2016  # apt's own $( )
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 2> /dev/null | head -n 1
}

build() {
    folder "$1"
    name=$2 source=$3 force=$4 compression=$5
    shift 5
    command -v apptainer > /dev/null || fail "there is no apptainer on $(hostname): install it (1.2 or newer), or set build_host"
    exec 9>> "$dir/.build-$(id -u).lock"
    flock -n 9 || { echo "waiting for another build"; flock 9; }
    if [ "$force" = no ] && same=$(made_from "$name" "$source"); then
        echo "$same"
        exit 0
    fi
    work=$(mktemp -d "${APPTAINER_TMPDIR:-${TMPDIR:-/tmp}}/sluice-image.XXXXXX")
    trap clean EXIT
    trap 'exit 143' HUP INT PIPE TERM
    mkdir "$work/tmp" "$work/context"
    export APPTAINER_TMPDIR="$work/tmp" TMPDIR="$work/tmp"
    cd "$work/context"
    tar -xzf -
    part=$(mktemp "$dir/.$name.XXXXXX.part")

    given=" $* "
    set -- "$@" --                                  # ARGUMENT=VALUE ... becomes --build-arg ARGUMENT=VALUE ...
    while [ "$1" != -- ]; do set -- "$@" --build-arg "$1"; shift; done
    shift
    if grep -q '{{ *MIRROR *}}' image.def; then
        case $given in
            *" MIRROR="*) ;;
            *)
                mirror=$(mirror)
                [ -n "$mirror" ] || fail "no Debian mirror is known on $(hostname): set SLUICE_DEBIAN_MIRROR there, or build with --arg MIRROR=URL"
                set -- "$@" --build-arg "MIRROR=$mirror"
                ;;
        esac
    fi
    if grep -q '^Bootstrap: *debootstrap' image.def; then
        command -v debootstrap > /dev/null || fail "there is no debootstrap on $(hostname): install it, or set build_host"
    fi
    if grep -q /.sluice-build/enter image.def; then set -- "$@" --bind /:/mnt:ro; fi
    [ "$(id -u)" = 0 ] || set -- "$@" --fakeroot
    if [ "$compression" = zstd ] && apptainer build --help | grep -q -e --mksquashfs-args; then
        set -- "$@" --mksquashfs-args "-comp zstd -Xcompression-level 3"      # half the time, and quicker to read
    fi
    echo "@stage building $name"
    apptainer build --force "$@" "$part" image.def < /dev/null
    echo "@stage hashing $name"
    sha=$(sha256sum < "$part" | cut -c 1-64)
    file=$dir/$name-$(echo "$sha" | cut -c 1-12)
    chmod 644 "$part"
    note=$(mktemp "$dir/.$name.XXXXXX.part")
    printf '{"name": "%s", "sha256": "%s", "size": %s, "built_at": "%s", "source": "%s"}\n' "$name" "$sha" \
        "$(stat -c %s "$part")" "$(now)" "$source" > "$note"
    chmod 644 "$note"
    mv -f "$part" "$file.sif"                       # the image first: a note without its image is not believed
    part=
    mv -f "$note" "$file.json"
    told "$file.json"
}

"$@"
