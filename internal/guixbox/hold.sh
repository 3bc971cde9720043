# The box's holder: a mount namespace whose root is ROOT.
#
# usage: unshare --mount --propagation private sh -c "$(cat hold.sh)" hold.sh ROOT SHARED…
#
# Not chroot: the kernel refuses new user namespaces to a chrooted process, and
# system containers need them.  SHARED are directories of the host that appear at
# the same place inside; ROOT may be in one of them.  Says "held" once everything is in
# place, then waits to be told "stay"; without that word, the one who started this is gone,
# and so is this.
set -e
root=$1
shift
mount --bind "$root" "$root"
mount --make-private "$root"
for d in "$@" /proc /dev /sys; do
    mkdir -p "$root$d"
    mount --rbind "$d" "$root$d"
done
for f in /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt; do
    mkdir -p "$root${f%/*}"
    cp -L "$f" "$root$f" 2>/dev/null || true
done
# Guix reads certificates from files of this name.
ln -sf ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.pem"
mkdir -p "$root/.host"
cd "$root"
pivot_root . .host
umount -l /.host
echo held
read -r word
test "$word" = stay
exec sleep infinity </dev/null >/dev/null 2>&1
