# The device's side of `sightline deploy`, in what every Debian has. One call is one step: sh -c THIS sightline STEP ..
#
# ~/.sightline/environments/ID     a virtual environment; `complete` is its last file. Deployments share them.
# ~/.sightline/services/NAME/RELEASE   a model with its unit.service and the options' files, renamed into place
# ~/.sightline/services/NAME/active    the release that was last seen to run
# /etc/systemd/system/sightline-NAME.service   the copy of a release's unit: the one file that says what runs
#
# Whatever ends a step half-way, a power cut included, leaves that one file as it was or as it shall be.
set -u
umask 022
base=$HOME/.sightline
password=

say() { echo "$*" 2>/dev/null || :; } # whoever listened may be gone
die() { echo "$*" >&2; exit "${code:-3}"; }
root() { printf '%s\n' "$password" 2>/dev/null | sudo -S -p '' "$@"; }
alone() { mkdir -p "$base" && exec 9>"$base/lock" && flock -w 600 9 || die "another deployment has been at work for 10 minutes"; }
# what root is asked for, and nothing else: sudoers may list it word for word
names() {
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

look() {
  names "$1"
  python=/usr/bin/python3
  [ -x $python ] || python=$(command -v python3) || python=
  say "python=$python"
  [ -z "$python" ] || say "version=$("$python" -c 'import struct, sys; print("%d.%d %d" % (*sys.version_info[:2], 8 * struct.calcsize("P")))')"
  [ -z "$python" ] || say "venv=$("$python" -c 'import venv; print("yes")' 2>/dev/null)"
  say "numpy=$("${python:-false}" -c 'import numpy; print(numpy.__version__)' 2>/dev/null)"
  say "machine=$(uname -m)"
  say "system=$(. /etc/os-release 2>/dev/null && echo "$PRETTY_NAME")"
  say "board=$( (tr -d '\0' </proc/device-tree/model) 2>/dev/null || cat /sys/class/dmi/id/product_name 2>/dev/null)"
  say "memory_kb=$(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo 2>/dev/null)"
  say "free_kb=$(df -Pk "$HOME" | sed -n '2s/^[^ ]* *[0-9]* *[0-9]* *\([0-9]*\).*/\1/p')"
  say "user=$(id -un)"
  say "home=$HOME"
  say "groups=$(getent group video plugdev render | cut -d: -f1 | tr '\n' ' ')"
  say "systemd=$([ -d /run/systemd/system ] && echo yes)"
  say "picamera2=$([ -d /usr/lib/python3/dist-packages/picamera2 ] && echo yes)"
  say "ribbon=$(cat /sys/class/video4linux/v4l-subdev*/name 2>/dev/null | grep -E '^(imx|ov|arducam|pivariety)' | tr '\n' ' ')"
  say "environments=$(cd "$base/environments" 2>/dev/null && ls -d */complete 2>/dev/null | cut -d/ -f1 | tr '\n' ' ')"
  say "ports=$(for other in "$base"/services/*/*/port; do case $other in "$here"/*) ;; *) cat "$other" 2>/dev/null ;; esac; done | tr '\n' ' ')"
  if ! command -v sudo >/dev/null; then
    say "sudo=missing"
  else
    for command in "$bring" "$place" "$reload" "$enable" "$restart" "$stop" "$clean" "$erase" "$tidy"; do
      say "root=$(command -v "${command%% *}") ${command#* }"
      # shellcheck disable=SC2086
      answer=$(root -l -- $command 2>&1 >/dev/null) && continue
      case $answer in *password*) say "sudo=password" && break ;; *) say "refused=yes" ;; esac
    done
  fi
}

# a tar with the file `sums` in it comes on stdin
receive() { mkdir -p "$1" && tar -xf - -C "$1" && (cd "$1" && sha256sum --quiet -c sums) || die "what was sent did not arrive whole"; }

# environment ID PYTHON SYSTEM FROM REQUIREMENT..: FROM is `index`, or `carried` where every wheel was sent
environment() {
  alone
  environment=$base/environments/$1 python=$2 system=$3 from=$4 carried=$base/carried
  shift 4
  [ ! -e "$environment/complete" ] || return 0
  rm -rf "$environment" "$carried"
  receive "$carried"
  [ "$system" = yes ] && system=--system-site-packages || system=
  "$python" -m venv --without-pip $system "$environment" || die "$python -m venv failed"
  [ "$from" = carried ] && set -- --no-index --find-links "$carried" "$@"
  # what is unpacked does not go into a /tmp of memory
  TMPDIR=$carried PYTHONPATH=$carried/pip.zip "$environment/bin/python" -m pip install --quiet --no-cache-dir --no-input --only-binary :all: \
    --disable-pip-version-check --retries 1 --timeout 15 "$@" "$carried"/sightline-*.whl || { rm -rf "$environment" "$carried"; code=4 die "pip failed"; }
  rm -rf "$carried"
  sync -f "$environment" && : >"$environment/complete" && sync -f "$environment"
}

# release NAME RELEASE ENVIRONMENT
release() {
  alone
  names "$1"
  part=$here/.$2.part
  rm -rf "$part"
  receive "$part"
  # one that is there is kept, unless its card has changed it
  ! (cd "$here/$2" 2>/dev/null && sha256sum --status -c sums) || { rm -rf "$part"; return 0; }
  ln -s "../../../environments/$3" "$part/environment" # so that `sweep` knows who needs it
  rm -rf "${here:?}/$2"
  sync -f "$part" && mv -T "$part" "$here/$2" && sync -f "$here"
}

# token NAME keep|replace: what the page's token is checked with, from stdin
token() {
  alone
  names "$1"
  mkdir -p "$here"
  [ "$2" = replace ] || [ ! -s "$here/page-token" ] || { say "kept"; return 0; }
  (umask 077 && cat >"$here/page-token.part" && sync "$here/page-token.part" && mv -f "$here/page-token.part" "$here/page-token") && say "new"
}

# a unit of the same name that somebody else has made is not touched
foreign() {
  if [ -e "$file" ] && ! grep -qF " $here/" "$file"; then
    die "$file is there already, and deploy has not made it: sightline service uninstall ${here##*/}, or another --name"
  fi
}

# activate NAME RELEASE [restart]
activate() {
  names "$1"
  trap '' HUP INT TERM PIPE # begun, it is ended: the network may go
  alone
  foreign
  [ -e "$here/$2/sums" ] || die "the release $2 is not there any more; deploy again"
  was=$(cat "$here/active" 2>/dev/null)
  began=$(date +%s)
  if [ "$was" = "$2" ] && [ -z "${3-}" ] && cmp -s "$here/$2/unit.service" "$file" && systemctl --quiet is-active "$unit" && systemctl --quiet is-enabled "$unit"; then
    say "service=same"
  elif commit "$2"; then
    say "$([ -n "$was" ] && echo service=changed || echo service=new)"
  else
    journal=$(journalctl --unit "$unit" --since "@$began" --output cat --no-pager 2>/dev/null)
    words=$(echo "$journal" | grep -i '^[a-z ]*error' | tail -n 1)
    [ -n "$words" ] || words=$(echo "$journal" | tail -n 5)
    if [ "$was" = "$2" ]; then
      went="systemd goes on trying" # it is the one that was there
    elif [ -n "$was" ]; then
      commit "$was" && went="the one before runs again" || went="the one before was put back, and does not start either"
    else
      root $stop >/dev/null 2>&1
      root $erase
      root $reload
      went="nothing of it runs now"
    fi
    die "the new agent did not start; $went: ${words:-see journalctl -u $unit}"
  fi
  say "status=$(waited)"
}

# make release $1 what runs, and see it run
commit() {
  cp "$here/$1/unit.service" "$here/next.service" && root $bring && rm -f "$here/next.service" &&
    sync "$new" && root $place && sync -f "$file" && root $reload && root $enable 2>/dev/null &&
    root $restart 2>/dev/null && steady || return 1
  echo "$1" >"$here/active.part" && sync "$here/active.part" && mv -f "$here/active.part" "$here/active"
}

# it said that it is ready; now it must not die at once
steady() {
  for _ in 1 2 3; do
    sleep 1
    systemctl --quiet is-active "$unit" || return 1
  done
  [ "$(systemctl show --property NRestarts --value "$unit")" = 0 ]
}

# what the agent says of itself, once it says that it sees; at most 15 seconds
waited() {
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    status=$(systemctl show --property StatusText --value "$unit")
    case $status in *\;* | 0.0\ *) ;; [0-9]*) break ;; esac
    sleep 1
  done
  echo "$status"
}

# sweep [NAME]: other releases of it, and environments that no release needs
sweep() {
  alone
  if [ $# -gt 0 ]; then
    names "$1"
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
  names "$1"
  trap '' HUP INT TERM PIPE
  [ -e "$base" ] || [ -e "$file" ] || { say "nothing"; return 0; }
  alone
  foreign
  said=nothing
  if [ -e "$here" ] || [ -e "$file" ]; then said=removed; fi
  if [ -e "$file" ]; then
    root $stop 2>/dev/null || die "systemctl disable --now $unit failed"
    root $clean || die "systemctl clean $unit failed"
    root $erase && root $reload || die "$file cannot be removed"
    root $tidy 2>/dev/null
  fi
  rm -rf "$here"
  sweep
  rmdir "$base/environments" "$base/services" 2>/dev/null
  set -- "$base"/*/
  [ -e "$1" ] || rm -rf "$base"
  say "$said"
}

# call ENVIRONMENT MODULE ARGUMENTS..: Sightline's own program there
call() { environment=$base/environments/$1; shift; cd "$base" && exec "$environment/bin/python" -m "$@"; }

step=$1
shift
case $step in
look | activate | remove) IFS= read -r password || : ;;
esac
"$step" "$@"
