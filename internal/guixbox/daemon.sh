# Runs guix-daemon, inside the box, in a process namespace of its own.
#
# usage: unshare --pid --fork --kill-child nsenter … sh -c "$(cat daemon.sh)" daemon.sh
#
# Guix-daemon kills all processes of a build user when a build begins and ends: outside that
# namespace there may be others of the same number, of the host or of another box.
# Prints "started", then waits to be told "stay"; without that word, the one who started
# this is gone, and so is the daemon.  Its messages go to standard error.
#
# --disable-chroot because the stand-ins link into the root's /usr.
trap 'exit 1' TERM
guix-daemon --disable-chroot --build-users-group=guixbuild --substitute-urls= </dev/null >&2 &
echo started
exec >&2
read -r word
test "$word" = stay || exit 1
exec </dev/null
wait $!
