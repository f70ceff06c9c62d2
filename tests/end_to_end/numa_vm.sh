#!/usr/bin/env bash
# A machine with several NUMA nodes, in software.
#
#   numa_vm.sh [FILE...] -- COMMAND...
#
# Boots 2 sockets, 4 NUMA nodes and 8 cores (QEMU without KVM; AVX2, no AVX-512) from an initramfs that holds the
# FILEs at their own paths, with the shared libraries that they need, and runs COMMAND there with busybox sh. Prints
# what COMMAND prints and exits as it does. A directory given as FILE is copied whole.
#
# Exits 77 after a line "SKIPPED: reason" where QEMU or a kernel cannot be had, 124 when the machine runs longer than
# ANNULUS_NUMA_VM_SECONDS (300). Needs qemu-system-x86, busybox-static and cpio, and installs them when it is root on
# a system with apt, unless ANNULUS_NO_INSTALL=1. Debian's kernel for virtual machines is downloaded once, into
# ${XDG_CACHE_HOME:-/var/tmp}/annulus-numa-vm; ANNULUS_NUMA_VM_KERNEL names another one.
set -euo pipefail

seconds=${ANNULUS_NUMA_VM_SECONDS:-300}
cache=${XDG_CACHE_HOME:-/var/tmp}/annulus-numa-vm
export DEBIAN_FRONTEND=noninteractive

skip() {
  echo "SKIPPED: $*: nothing was checked on a machine with several NUMA nodes" >&2
  exit 77
}

need_tools() {
  local missing=()
  command -v qemu-system-x86_64 >/dev/null || missing+=(qemu-system-x86)
  command -v busybox >/dev/null || missing+=(busybox-static)
  command -v cpio >/dev/null || missing+=(cpio)
  [ ${#missing[@]} -eq 0 ] && return
  if [ "${ANNULUS_NO_INSTALL:-0}" = 1 ] || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    skip "needs ${missing[*]} (apt-get install ${missing[*]})"
  fi
  echo "installing ${missing[*]}" >&2
  timeout 300 apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
    { timeout 60 apt-get update -qq && timeout 300 apt-get install -y -qq --no-install-recommends "${missing[@]}"; } \
      >/dev/null 2>&1 || skip "cannot install ${missing[*]}"
}

# Sets `kernel`.
need_kernel() {
  kernel=${ANNULUS_NUMA_VM_KERNEL:-$cache/vmlinuz}
  [ -e "$kernel" ] && return
  [ -z "${ANNULUS_NUMA_VM_KERNEL:-}" ] || skip "ANNULUS_NUMA_VM_KERNEL=$kernel does not exist"
  command -v apt-get >/dev/null || skip "no apt-get to download a kernel with; set ANNULUS_NUMA_VM_KERNEL"
  mkdir -p "$cache" || skip "cannot write $cache"
  local package parts="$work/kernel"
  package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends:/ {print $2; exit}')
  [ -n "$package" ] || skip "apt knows no linux-image-cloud-amd64; set ANNULUS_NUMA_VM_KERNEL"
  mkdir "$parts"
  (cd "$parts" && timeout 300 apt-get download "$package" && dpkg -x "$package"*.deb .) >/dev/null 2>&1 ||
    skip "cannot download $package"
  mv "$parts"/boot/vmlinuz* "$cache/vmlinuz.$$" && mv "$cache/vmlinuz.$$" "$cache/vmlinuz"
}

# Copies a file or directory to the same path under $image; of a link also what it points to, link by link.
copy() {
  local path=$1
  mkdir -p "$image$(dirname "$path")"
  if [ -L "$path" ]; then
    cp -a "$path" "$image$path"
    local target
    target=$(readlink "$path")
    case $target in /*) ;; *) target=$(dirname "$path")/$target ;; esac
    copy "$(realpath -s "$target")"
  elif [ ! -e "$image$path" ] || [ -d "$path" ]; then
    cp -a "$path" "$image$(dirname "$path")/"
  fi
}

pack() {
  image=$work/image
  mkdir -p "$image"/{bin,proc,sys,dev,tmp,root,etc,run,lib64}
  cp -L "$(command -v busybox)" "$image/bin/busybox"
  ln -s busybox "$image/bin/sh"
  # The loader's own path is written into every program.
  cp -L /lib64/ld-linux-x86-64.so.2 "$image/lib64/"
  local file library
  for file in "$@"; do
    [ -e "$file" ] || { echo "numa_vm.sh: $file does not exist" >&2; exit 2; }
    file=$(realpath -s "$file")
    copy "$file"
    [ -f "$file" ] || continue
    # A loaded library's path may go through a link to a directory (/lib on merged systems): copied as plain
    # directories, which serves the loader as well.
    for library in $(ldd "$file" 2>/dev/null | grep -oE '/[^ )]+' || true); do
      mkdir -p "$image$(dirname "$library")"
      [ -e "$image$library" ] || cp -L "$library" "$image$library"
    done
  done
}

write_init() {
  printf '%s\n' "$*" >"$image/job"
  cat >"$image/init" <<'INIT'
#!/bin/sh
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin HOME=/root LANG=C.UTF-8 TERM=dumb
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs tmpfs /dev/shm
ip link set lo up 2>/dev/null
cd /root
echo "=== begin"
sh /job 2>&1
echo "=== exit $?"
sync
poweroff -f
INIT
  chmod +x "$image/init"
  (cd "$image" && find . | cpio -o -H newc 2>/dev/null | gzip -1 >"$work/initramfs")
}

boot() {
  local memory=() node
  for node in 0 1 2 3; do
    memory+=(-object "memory-backend-ram,size=1G,id=memory$node"
      -numa "node,nodeid=$node,cpus=$((2 * node))-$((2 * node + 1)),memdev=memory$node")
  done
  timeout --foreground -k 5 "$seconds" qemu-system-x86_64 -cpu max -accel tcg,thread=multi \
    -smp 8,sockets=2,cores=4,threads=1 -m 4096 "${memory[@]}" -kernel "$kernel" -initrd "$work/initramfs" \
    -append "console=ttyS0 quiet panic=1" -nographic -no-reboot </dev/null
}

files=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do files+=("$1"); shift; done
[ $# -gt 1 ] || { echo "usage: numa_vm.sh [FILE...] -- COMMAND..." >&2; exit 2; }
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

need_tools
need_kernel
pack "${files[@]}"
write_init "$@"
status=0
boot >"$work/console" 2>"$work/qemu" || status=$?
tr -d '\r' <"$work/console" | sed -n '/=== begin$/,/^=== exit /{/=== begin$/d;/^=== exit /d;p}'
if [ "$status" = 124 ] || [ "$status" = 137 ]; then
  echo "numa_vm.sh: stopped after $seconds seconds; the console's last lines:" >&2
  tail -5 "$work/console" >&2
  exit 124
fi
result=$(tr -d '\r' <"$work/console" | sed -n 's/^=== exit \([0-9]*\)$/\1/p' | tail -1)
if [ -z "$result" ]; then
  echo "numa_vm.sh: the machine ended without a result (qemu: exit $status)" >&2
  tail -20 "$work/qemu" "$work/console" >&2
  exit 1
fi
exit "$result"
