# The device's side of `sightline deploy`, in programs that every Debian has. One call is one step:
# sh -c THIS sightline STEP ..
#
# ~/.sightline/environments/ID     a virtual environment; `complete` is its last file. Deployments share them.
# ~/.sightline/services/NAME/RELEASE   a model with its unit.service and the options' files, renamed into place
# ~/.sightline/services/NAME/active    the id of the release that last started successfully
# /etc/systemd/system/sightline-NAME.service   the copy of a release's unit: this one file decides what runs
#
# If anything interrupts a step, a power cut included, that one file is either the old or the new one.
set -u
umask 022
base=$HOME/.sightline
password=

reply() { echo "$*" 2>/dev/null || :; } # the reader may be gone
die() { echo "$*" >&2; exit "${code:-3}"; }
root() { printf '%s\n' "$password" 2>/dev/null | sudo -S -p '' "$@"; }
lock() { mkdir -p "$base" && exec 9>"$base/lock" && flock -w 600 9 || die "another deployment has held $base/lock for 10 minutes. Try again later"; }
# Paths of the deployment $1, and all commands that need root. sudoers may list them word for word.
set_names() {
  here=$base/services/$1
  unit=sightline-$1.service
  file=/etc/systemd/system/$unit
  new=/etc/systemd/system/.sightline-$1.new
  bring="install -m 644 -T $here/next.service $new"
  place="mv -fT $new $file"
  reload="systemctl daemon-reload"
  enable="systemctl enable $unit"
  restart="systemctl restart $unit"
  stop="systemctl disable --now $unit"
  clean="systemctl clean --what=all $unit"
  erase="rm -f $file $new"
  tidy="rmdir --ignore-fail-on-non-empty /var/lib/sightline"
}

facts() {
  set_names "$1"
  python=/usr/bin/python3
  [ -x $python ] || python=$(command -v python3) || python=
  reply "python=$python"
  [ -z "$python" ] || reply "version=$("$python" -c 'import struct, sys; print("%d.%d %d" % (*sys.version_info[:2], 8 * struct.calcsize("P")))')"
  [ -z "$python" ] || reply "venv=$("$python" -c 'import venv; print("yes")' 2>/dev/null)"
  reply "numpy=$("${python:-false}" -c 'import numpy; print(numpy.__version__)' 2>/dev/null)"
  reply "machine=$(uname -m)"
  reply "system=$(. /etc/os-release 2>/dev/null && echo "$PRETTY_NAME")"
  reply "board=$( (tr -d '\0' </proc/device-tree/model) 2>/dev/null || cat /sys/class/dmi/id/product_name 2>/dev/null)"
  reply "memory_kb=$(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo 2>/dev/null)"
  reply "free_kb=$(df -Pk "$HOME" | sed -n '2s/^[^ ]* *[0-9]* *[0-9]* *\([0-9]*\).*/\1/p')"
  reply "user=$(id -un)"
  reply "home=$HOME"
  reply "groups=$(getent group video plugdev render | cut -d: -f1 | tr '\n' ' ')"
  reply "systemd=$([ -d /run/systemd/system ] && echo yes)"
  reply "picamera2=$([ -d /usr/lib/python3/dist-packages/picamera2 ] && echo yes)"
  reply "ribbon=$(cat /sys/class/video4linux/v4l-subdev*/name 2>/dev/null | grep -E '^(imx|ov|arducam|pivariety)' | tr '\n' ' ')"
  reply "environments=$(cd "$base/environments" 2>/dev/null && ls -d */complete 2>/dev/null | cut -d/ -f1 | tr '\n' ' ')"
  reply "ports=$(for other in "$base"/services/*/*/port; do case $other in "$here"/*) ;; *) cat "$other" 2>/dev/null ;; esac; done | tr '\n' ' ')"
  if ! command -v sudo >/dev/null; then
    reply "sudo=missing"
  else
    for command in "$bring" "$place" "$reload" "$enable" "$restart" "$stop" "$clean" "$erase" "$tidy"; do
      reply "root=$(command -v "${command%% *}") ${command#* }"
      # shellcheck disable=SC2086
      answer=$(root -l -- $command 2>&1 >/dev/null) && continue
      case $answer in *password*) reply "sudo=password" && break ;; *) reply "refused=yes" ;; esac
    done
  fi
}

# stdin is a tar with the file `sums` in it
receive() { mkdir -p "$1" && tar -xf - -C "$1" && (cd "$1" && sha256sum --quiet -c sums) || die "the files did not arrive complete. Deploy again"; }

# environment ID PYTHON SYSTEM FROM REQUIREMENT..
# SYSTEM: `yes` = it sees the system's packages. FROM: `index`, or `carried` if every wheel was sent
environment() {
  lock
  environment=$base/environments/$1 python=$2 system=$3 from=$4 carried=$base/carried
  shift 4
  [ ! -e "$environment/complete" ] || return 0
  rm -rf "$environment" "$carried"
  receive "$carried"
  [ "$system" = yes ] && system=--system-site-packages || system=
  "$python" -m venv --without-pip $system "$environment" || die "$python -m venv failed"
  [ "$from" = carried ] && set -- --no-index --find-links "$carried" "$@"
  # pip unpacks on the disk: /tmp may be in memory
  TMPDIR=$carried PYTHONPATH=$carried/pip.zip "$environment/bin/python" -m pip install --quiet --no-cache-dir --no-input --only-binary :all: \
    --disable-pip-version-check --retries 1 --timeout 15 "$@" "$carried"/sightline-*.whl || { rm -rf "$environment" "$carried"; code=4 die "pip failed"; }
  rm -rf "$carried"
  sync -f "$environment" && : >"$environment/complete" && sync -f "$environment"
}

# release NAME RELEASE ENVIRONMENT
release() {
  lock
  set_names "$1"
  part=$here/.$2.part
  rm -rf "$part"
  receive "$part"
  # an existing release stays, unless the card has damaged it
  ! (cd "$here/$2" 2>/dev/null && sha256sum --status -c sums) || { rm -rf "$part"; return 0; }
  ln -s "../../../environments/$3" "$part/environment" # tells `sweep` that this environment is needed
  rm -rf "${here:?}/$2"
  sync -f "$part" && mv -T "$part" "$here/$2" && sync -f "$here"
}

# token NAME keep|replace: stores the hash of the page's token, which is stdin
token() {
  lock
  set_names "$1"
  mkdir -p "$here"
  [ "$2" = replace ] || [ ! -s "$here/page-token" ] || { reply "kept"; return 0; }
  (umask 077 && cat >"$here/page-token.part" && sync "$here/page-token.part" && mv -f "$here/page-token.part" "$here/page-token") && reply "new"
}

# refuse to touch a unit of the same name that deploy did not make
refuse_foreign() {
  if [ -e "$file" ] && ! grep -qF " $here/" "$file"; then
    die "$file: deploy did not make this unit. Remove it with sightline service uninstall ${here##*/}, or pass another --name"
  fi
}

# activate NAME RELEASE [restart]
activate() {
  set_names "$1"
  trap '' HUP INT TERM PIPE # finish even if the network goes
  lock
  refuse_foreign
  [ -e "$here/$2/sums" ] || die "the release $2 is missing. Deploy again"
  previous=$(cat "$here/active" 2>/dev/null)
  began=$(date +%s)
  if [ "$previous" = "$2" ] && [ -z "${3-}" ] && cmp -s "$here/$2/unit.service" "$file" && systemctl --quiet is-active "$unit" && systemctl --quiet is-enabled "$unit"; then
    reply "service=same"
  elif switch_to "$2"; then
    reply "$([ -n "$previous" ] && echo service=changed || echo service=new)"
  else
    journal=$(journalctl --unit "$unit" --since "@$began" --output cat --no-pager 2>/dev/null)
    error=$(echo "$journal" | grep -i '^[a-z ]*error' | tail -n 1)
    [ -n "$error" ] || error=$(echo "$journal" | tail -n 5)
    if [ "$previous" = "$2" ]; then
      outcome="It is the installed release, and systemd goes on restarting it" # nothing to roll back to
    elif [ -n "$previous" ]; then
      switch_to "$previous" && outcome="The previous release runs again" || outcome="The previous release is back, but it does not start either"
    else
      root $stop >/dev/null 2>&1
      root $erase
      root $reload
      outcome="Nothing runs now"
    fi
    die "the new agent did not start or did not stay up. $outcome. Its last output: ${error:-none; see journalctl -u $unit}"
  fi
  reply "status=$(agent_status)"
}

# make release $1 the running one, and check that it stays up
switch_to() {
  cp "$here/$1/unit.service" "$here/next.service" && root $bring && rm -f "$here/next.service" &&
    sync "$new" && root $place && sync -f "$file" && root $reload && root $enable 2>/dev/null &&
    root $restart 2>/dev/null && stays_up || return 1
  echo "$1" >"$here/active.part" && sync "$here/active.part" && mv -f "$here/active.part" "$here/active"
}

# the agent reported ready; now it must not die for 3 seconds
stays_up() {
  for _ in 1 2 3; do
    sleep 1
    systemctl --quiet is-active "$unit" || return 1
  done
  [ "$(systemctl show --property NRestarts --value "$unit")" = 0 ]
}

# print the agent's status line as soon as it shows a frame rate, after at most 15 seconds
agent_status() {
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    status=$(systemctl show --property StatusText --value "$unit")
    case $status in *\;* | 0.0\ *) ;; [0-9]*) break ;; esac
    sleep 1
  done
  echo "$status"
}

# sweep [NAME]: remove its other releases, and the environments that no release needs
sweep() {
  lock
  if [ $# -gt 0 ]; then
    set_names "$1"
    active=$(cat "$here/active" 2>/dev/null)
    for release in "$here"/*/ "$here"/.*.part; do
      [ "$release" = "$here/$active/" ] || rm -rf "$release"
    done
  fi
  needed=$(for link in "$base"/services/*/*/environment; do readlink "$link"; done)
  for environment in "$base"/environments/*/; do
    id=$(basename "$environment")
    case $needed in *"$id"*) ;; *) rm -rf "$environment" ;; esac
  done
  rm -rf "$base/carried"
}

# remove NAME
remove() {
  set_names "$1"
  trap '' HUP INT TERM PIPE
  [ -e "$base" ] || [ -e "$file" ] || { reply "nothing"; return 0; }
  lock
  refuse_foreign
  result=nothing
  if [ -e "$here" ] || [ -e "$file" ]; then result=removed; fi
  if [ -e "$file" ]; then
    root $stop 2>/dev/null || die "systemctl disable --now $unit failed"
    root $clean || die "systemctl clean $unit failed"
    root $erase && root $reload || die "$file: cannot remove it"
    root $tidy 2>/dev/null
  fi
  rm -rf "$here"
  sweep
  rmdir "$base/environments" "$base/services" 2>/dev/null
  set -- "$base"/*/
  [ -e "$1" ] || rm -rf "$base"
  reply "$result"
}

# call ENVIRONMENT MODULE ARGUMENTS..: run a module of the installed Sightline
call() { environment=$base/environments/$1; shift; cd "$base" && exec "$environment/bin/python" -m "$@"; }

step=$1
shift
case $step in
facts | activate | remove) IFS= read -r password || : ;;
esac
"$step" "$@"
