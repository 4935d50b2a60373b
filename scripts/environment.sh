# shellcheck shell=bash
# Sourced by the scripts beside it. Goes to the root of the checkout and offers:
#
#   prepare EXTRA…      .venv with this project, editable, and those of its extras
#   prepare_postgres    a PostgreSQL server's programs for the tests, where they can be had
#   prepare_chromium    a browser and its driver, likewise
#   prepare_nginx       a proxy, likewise
#
# They do nothing where all is there, can be interrupted at any moment, and can run twice at once.
# They write to stderr only: a command's stdout belongs to its answer.

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null && pwd -P)
venv=$root/.venv
stamp=$venv/.soundmill # what was installed: a fingerprint, then the extras; or "unfinished"
cd -- "$root" || exit

say() { printf '%s\n' "$*" >&2; }

die() {
    say "$*"
    exit 1
}

# --- one at a time -----------------------------------------------------------------------------------

# The lock is held on the checkout's folder itself, so there is no lock file to leave behind.
lock() {
    exec 9<"$root"
    command -v flock >/dev/null || return 0
    flock --nonblock 9 && return
    say "Waiting for another set-up of $root to end."
    flock 9
}

unlock() { exec 9<&-; }

# --- system packages ---------------------------------------------------------------------------------

sudo_word() { [ "$(id -u)" -eq 0 ] || printf 'sudo '; }

as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi; }

can_install_packages() {
    command -v apt-get >/dev/null || return 1
    [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null
}

# apt_install COMMAND-BEFORE COMMAND-AFTER PACKAGE…, the two commands as root around the installation.
apt_install() {
    can_install_packages || return 1
    local output
    say "Installing ${*:3} with apt-get."
    # Without the lock's descriptor: a service that a package starts would hold the lock for ever.
    # A source that cannot be reached fails the update, though the package may well be there.
    # shellcheck disable=SC2016 # the variables are the inner shell's
    output=$(as_root env DEBIAN_FRONTEND=noninteractive bash -c '
        set -u
        before=$1 after=$2
        shift 2
        trap "$after" EXIT
        trap "exit 130" INT TERM
        eval "$before"
        apt_get() {
            apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::http::Timeout=30 -o Dpkg::Use-Pty=0 "$@"
        }
        apt_get update || true
        apt_get install --yes --no-install-recommends "$@"
    ' apt_install "$@" 2>&1 9<&-) && return
    say "$output"
    return 1
}

# --- Python ------------------------------------------------------------------------------------------

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    local name
    for name in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python3.14; do
        if command -v "$name" >/dev/null && is_new_enough "$name"; then
            command -v "$name"
            return
        fi
    done
    local version=3 # what a system without any Python calls its own; an older one has 3.11 beside it
    if command -v python3 >/dev/null; then version=3.11; fi
    die "Python 3.11 or newer is missing; run: $(sudo_word)apt-get install -y python$version python$version-venv"
}

# Debian and Ubuntu ship Python without the part that makes virtual environments.
need_venv_module() {
    local python=$1 package
    "$python" -c 'import ensurepip, venv' 2>/dev/null && return
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(readlink -f /usr/bin/python3)" = "$(readlink -f "$python")" ]; then package=python3-venv; fi
    if apt_install : : "$package" && "$python" -c 'import ensurepip, venv' 2>/dev/null; then return; fi
    die "Python's venv module is missing; run: $(sudo_word)apt-get install -y $package"
}

make_venv() {
    local python
    python=$(find_python)
    need_venv_module "$python"
    say "Making .venv with $("$python" --version)."
    "$python" -m venv --clear "$venv"
}

# Made at this very place, not left half-made, by a Python that is still there.
venv_is_sound() {
    [ "$(cat "$stamp" 2>/dev/null)" != unfinished ] &&
        grep -qsx "command = .* $venv" "$venv/pyvenv.cfg" &&
        is_new_enough "$venv/bin/python" &&
        "$venv/bin/python" -I -c 'import pip' 2>/dev/null
}

# --- this project ------------------------------------------------------------------------------------

# The models are tested with this torch. The name alone: where pip is set up with an index of builds for
# processors only, it is taken from there.
torch_pin=torch==2.13.0

fingerprint() {
    local version
    version=$("$venv/bin/python" -I -c 'import sys; print(sys.version)' 2>/dev/null) || return 1
    { printf '%s\n' "$root" "$version" "$torch_pin" && cat pyproject.toml; } | sha256sum
}

installed_extras() { sed -n 2p "$stamp" 2>/dev/null || true; }

is_prepared() {
    local found extra
    [ -f "$stamp" ] && found=$(fingerprint) && [ "$(sed -n 1p "$stamp")" = "$found" ] || return 1
    found=$(installed_extras)
    for extra in "$@"; do [[ " $found " == *" $extra "* ]] || return 1; done
}

install_project() {
    local extras pins=()
    # Those of an earlier run too, so that two scripts in turn do not install in turn.
    extras=$(printf '%s\n' "$@" "$(installed_extras)" | tr ' ' '\n' | sed '/^$/d' | sort -u | paste -sd' ')
    if [[ " $extras " == *" models "* ]]; then pins=("$torch_pin"); fi
    say "Installing Soundmill and what it needs ($extras) into .venv; the first time takes a minute or two."
    echo unfinished >"$stamp"
    # pip answers Ctrl-C with an ordinary failure: only this trap tells one from the other.
    trap 'exit 130' INT
    if ! "$venv/bin/python" -I -m pip install -qq --no-input --disable-pip-version-check \
        --editable ".[${extras// /,}]" ${pins[@]+"${pins[@]}"} >&2; then
        rm -f "$stamp"
        die "pip could not install Soundmill; what it said stands above."
    fi
    trap - INT
    printf '%s\n' "$(fingerprint)" "$extras" >"$stamp.new"
    mv "$stamp.new" "$stamp"
}

prepare() {
    lock
    if ! is_prepared "$@"; then
        venv_is_sound || make_venv
        install_project "$@"
    fi
    unlock
}

# --- PostgreSQL --------------------------------------------------------------------------------------

# The same places as in tests/postgres.py.
has_postgres() {
    command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null ||
        { command -v pg_config >/dev/null && [ -x "$(pg_config --bindir 2>/dev/null)/initdb" ]; }
}

# Debian's package would also create a cluster and start it. A setting that lives as long as the
# installation prevents that, and where there are clusters already nothing is installed at all.
install_postgres() {
    local folder=/etc/postgresql-common/createcluster.d
    local setting=$folder/soundmill-tests.conf
    apt_install "mkdir -p $folder && echo 'create_main_cluster = false' >$setting" \
        "rm -f $setting; rmdir --parents --ignore-fail-on-non-empty $folder 2>/dev/null" \
        postgresql
}

prepare_postgres() {
    if has_postgres || ! can_install_packages || compgen -G '/etc/postgresql/*/*' >/dev/null; then return; fi
    lock
    # Without it the tests that need it say so themselves.
    has_postgres || install_postgres || say "PostgreSQL could not be installed."
    unlock
}

# --- a browser and a proxy ---------------------------------------------------------------------------

prepare_chromium() {
    # Ubuntu's packages of these names fetch a snap, which a test cannot run.
    if command -v chromedriver >/dev/null || ! grep -qsx ID=debian /etc/os-release || ! can_install_packages; then
        return
    fi
    lock
    command -v chromedriver >/dev/null || apt_install : : chromium chromium-driver ||
        say "Chromium could not be installed."
    unlock
}

has_nginx() { command -v nginx >/dev/null || [ -x /usr/sbin/nginx ]; }

# Debian's package would also start it, now and whenever the machine starts.
install_nginx() {
    local policy=/usr/sbin/policy-rc.d
    apt_install "[ -e $policy ] || { made=$policy; printf '#!/bin/sh\nexit 101\n' >$policy; chmod +x $policy; }" \
        "rm -f \"\${made-}\"; systemctl --quiet disable nginx 2>/dev/null" \
        nginx
}

prepare_nginx() {
    if has_nginx || ! can_install_packages; then return; fi
    lock
    has_nginx || install_nginx || say "nginx could not be installed."
    unlock
}
