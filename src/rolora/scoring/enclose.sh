# Runs as the root of new user, mount, process, network, IPC and host-name namespaces, which belong
# to an ordinary user outside. Leaves a system of the paths that are given, read-only, and an empty
# /tmp; then gives up every right and becomes the command.
#
# enclose.sh ROOM MIB PATH... -- COMMAND...
set -e
seen=$1/seen root=$1/root mib=$2
shift 2
mount -t tmpfs -o size=1m,mode=755 none "$root"
mkdir "$root/tmp" "$root/old"
mount -t tmpfs -o "size=${mib}m,nr_inodes=1000,nosuid,nodev" none "$root/tmp"
while [ "$1" != "--" ]; do
  mkdir -p "$root$(dirname "$1")"
  source=$1
  if [ -e "$seen$1" ]; then source=$seen$1; fi # what lend.sh lent
  if [ -L "$1" ]; then
    ln -s "$(readlink "$1")" "$root$1"
  elif [ -d "$source" ]; then
    mkdir -p "$root$1"
    mount --rbind "$source" "$root$1"
    mount -o remount,bind,ro,nosuid,nodev "$root$1"
  elif [ -e "$source" ]; then
    touch "$root$1"
    mount --bind "$source" "$root$1"
  fi
  above=$(dirname "$1")
  while [ "$above" != / ] && [ "$above" != /tmp ]; do # on the way to Python: to go through, not to look around
    chmod 111 "$root$above" 2> /dev/null || true
    above=$(dirname "$above")
  done
  shift
done
shift
echo 0 > /proc/sys/user/max_user_namespaces # no way to be root of anything again
cd "$root"
ln -s old/proc proc # which umount reads
pivot_root . old
umount -l /old
rm /proc
rmdir /old
mount -o remount,ro /
cd /tmp
exec setpriv --bounding-set=-all --inh-caps=-all --ambient-caps=-all --no-new-privs "$@"
