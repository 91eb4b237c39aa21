# The device's side of `sightline deploy`, in what every Debian has. One call is one step: sh -c THIS sightline STEP ..
#
# ~/.sightline/environments/ID     a virtual environment; `complete` is its last file. Deployments share them.
# ~/.sightline/NAME/RELEASE        a model with its unit.service and the options' files; `complete` is its last file
# ~/.sightline/NAME/active         the release that was last seen to run
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
names() { here=$base/$1; unit=sightline-$1.service; file=/etc/systemd/system/$unit; new=/etc/systemd/system/.sightline-$1.new; }

# what root is asked for, one command a line, as sudoers may list them
privileged() {
  cat <<END
install -m 644 -T $here/next.service $new
mv -fT $new $file
systemctl daemon-reload
systemctl enable $unit
systemctl restart $unit
systemctl disable --now $unit
systemctl clean --what=all $unit
rm -f $file $new
rmdir --ignore-fail-on-non-empty /var/lib/sightline
END
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
  say "active=$(cat "$here/active" 2>/dev/null)"
  say "ports=$(for other in "$base"/*/*/unit.service; do case $other in "$here"/*) ;; *) sed -n 's/.*--page-port \([0-9]*\).*/\1/p' "$other" 2>/dev/null ;; esac; done | tr '\n' ' ')"
  if ! command -v sudo >/dev/null; then
    say "sudo=missing"
  else
    privileged | while read -r command; do
      # shellcheck disable=SC2086
      answer=$(root -l -- $command 2>&1 >/dev/null </dev/null) && continue
      case $answer in *password*) say "sudo=password" && break ;; esac
      say "refused=$(command -v "${command%% *}") ${command#* }"
    done
  fi
}

# a tar with the file `sums` in it comes on stdin
receive() { mkdir -p "$1" && tar -xf - -C "$1" && (cd "$1" && sha256sum --quiet -c sums && rm sums) || die "what was sent did not arrive whole"; }

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
  PYTHONPATH=$carried/pip.zip "$environment/bin/python" -m pip install --quiet --no-cache-dir --no-input --only-binary :all: \
    --disable-pip-version-check --retries 1 --timeout 15 "$@" "$carried"/sightline-*.whl || { rm -rf "$environment" "$carried"; code=4 die "pip failed"; }
  rm -rf "$carried"
  sync -f "$environment" && : >"$environment/complete" && sync -f "$environment"
}

# release NAME RELEASE ENVIRONMENT
release() {
  alone
  names "$1"
  [ ! -e "$here/$2/complete" ] || return 0
  rm -rf "${here:?}/$2"
  receive "$here/$2"
  ln -sfn "../../environments/$3" "$here/$2/environment" # so that `sweep` knows who needs it
  sync -f "$here/$2" && : >"$here/$2/complete" && sync -f "$here/$2"
}

# token NAME: what the page's token is checked with, from stdin; one that is there stays
token() {
  alone
  names "$1"
  mkdir -p "$here"
  [ ! -s "$here/page-token" ] || { say "kept"; return 0; }
  (umask 077 && cat >"$here/page-token.part" && sync "$here/page-token.part" && mv -f "$here/page-token.part" "$here/page-token") && say "new"
}

# activate NAME RELEASE
activate() {
  names "$1"
  trap '' HUP INT TERM PIPE # begun, it is ended: the network may go
  alone
  [ -e "$here/$2/complete" ] || die "the release $2 is not there any more; deploy again"
  was=$(cat "$here/active" 2>/dev/null)
  if [ "$was" = "$2" ] && cmp -s "$here/$2/unit.service" "$file" && systemctl --quiet is-active "$unit" && systemctl --quiet is-enabled "$unit"; then
    say "service=same"
  elif commit "$2"; then
    say "$([ -n "$was" ] && echo service=changed || echo service=new)"
  else
    tail=$(journalctl --unit "$unit" --lines 20 --output cat --no-pager 2>/dev/null | grep -v '^$' | tail -n 8)
    if [ -n "$was" ] && [ "$was" != "$2" ] && [ -e "$here/$was/complete" ] && commit "$was"; then
      went="the one before runs again"
    else
      root systemctl disable --now "$unit" >/dev/null 2>&1
      root rm -f "$file" "$new"
      root systemctl daemon-reload
      went="nothing of it runs now"
    fi
    die "the new agent did not start; $went: ${tail:-see journalctl -u $unit}"
  fi
  say "status=$(waited)"
}

# make release $1 what runs, and see it run
commit() {
  cp "$here/$1/unit.service" "$here/next.service" && root install -m 644 -T "$here/next.service" "$new" && rm -f "$here/next.service" &&
    sync "$new" && root mv -fT "$new" "$file" && sync -f "$file" && root systemctl daemon-reload && root systemctl --quiet enable "$unit" 2>/dev/null &&
    root systemctl restart "$unit" && steady || return 1
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
    for release in "$here"/*/; do
      [ "$release" = "$here/$active/" ] || rm -rf "$release"
    done
  fi
  needed=$(for link in "$base"/*/*/environment; do readlink "$link"; done)
  for environment in "$base"/environments/*/; do
    id=$(basename "$environment")
    case $needed in *"$id"*) ;; *) rm -rf "$environment" ;; esac
  done
  rm -rf "$base/carried"
}

remove() {
  names "$1"
  trap '' HUP INT TERM PIPE
  [ -e "$here" ] || [ -e "$file" ] || { say "nothing"; return 0; }
  alone
  if [ -e "$file" ]; then
    root systemctl --quiet disable --now "$unit" 2>/dev/null || die "systemctl disable --now $unit failed"
    root systemctl clean --what=all "$unit" || die "systemctl clean $unit failed"
  fi
  root rm -f "$file" "$new" && root systemctl daemon-reload || die "$file cannot be removed"
  root rmdir --ignore-fail-on-non-empty /var/lib/sightline 2>/dev/null
  rm -rf "$here"
  sweep
  rmdir "$base/environments" 2>/dev/null
  set -- "$base"/*/
  [ -e "$1" ] || rm -rf "$base"
  say "removed"
}

# call ENVIRONMENT MODULE ARGUMENTS..: Sightline's own program there
call() { environment=$base/environments/$1; shift; cd "$base" && exec "$environment/bin/python" -m "$@"; }

step=$1
shift
case $step in
look | activate | remove) IFS= read -r password || : ;;
esac
"$step" "$@"
