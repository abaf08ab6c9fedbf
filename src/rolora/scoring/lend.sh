# Runs as the machine's root in a mount namespace of its own. Shows the paths to the user nobody,
# who may not reach them (a Python in root's home), and becomes the command as that user.
#
# lend.sh ROOM PATH... -- COMMAND...
set -e
seen=$1/seen
shift
while [ "$1" != "--" ]; do
  mkdir -p "$seen$1"
  mount --rbind "$1" "$seen$1"
  shift
done
shift
exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
