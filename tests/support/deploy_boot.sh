# Boot a machine: `sh deploy_boot.sh ROOT`, where ROOT is a mount of its own. It first enters control groups of its own,
# which become the root of the groups that it sees. Then, as process 1 of new namespaces, it mounts its file systems and
# starts systemd.
set -e
root=$1
if [ "${2-}" != inside ]; then
  for group in /sys/fs/cgroup /sys/fs/cgroup/*/; do
    case $group in */cpuset/) continue ;; esac # cpuset refuses processes until it has processors
    [ ! -e "$group/cgroup.procs" ] || { mkdir -p "$group/machine-$$" && echo $$ >"$group/machine-$$/cgroup.procs"; } || :
  done
  exec unshare --fork --kill-child --pid --mount --uts --ipc --cgroup sh "$0" "$root" inside
fi
mount --make-rprivate /
hostname device
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
for folder in run tmp dev; do mount -t tmpfs -o mode=0755 tmpfs "$root/$folder"; done
chmod 1777 "$root/tmp"
for node in null zero full random urandom tty; do
  touch "$root/dev/$node"
  mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" /lib/systemd/systemd
