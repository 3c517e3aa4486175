#!/bin/sh
# `kd plugin new` for each kind: the project builds without a warning against the installed library, passes its own test and runs in
# gst-launch-1.0. Arguments: this build's folder, meson.
set -eu
build=$1 meson=$2
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

"$meson" install -C "$build" --no-rebuild --quiet --destdir "$root/dest"
pc=$(find "$root/dest" -name kdstream-1.0.pc)
lib=$(dirname "$(dirname "$pc")")
kd=$(find "$root/dest" -path '*/bin/kd')

# Not where it will live: the prefix in the .pc file is made the one it stands in now.
sed -i "s|^prefix=|prefix=$root/dest|" "$pc"
export PKG_CONFIG_PATH="$(dirname "$pc")" LD_LIBRARY_PATH="$lib"
export GST_PLUGIN_PATH_1_0="$lib/gstreamer-1.0" GST_REGISTRY_1_0="$root/registry.bin"
unset G_DEBUG

cd "$root"
for kind in loss selector augment transform source; do
  "$kd" plugin new "try$kind" --kind "$kind" >out 2>&1 || { cat out; exit 1; }
  (cd "try$kind" && "$meson" setup b -Dwerror=true && "$meson" test -C b --print-errorlogs) >out 2>&1 || { cat out; exit 1; }
  GST_PLUGIN_PATH_1_0="$GST_PLUGIN_PATH_1_0:$root/try$kind/b"
done

student='kdstudent arch=mlp\ dims=2,8,3' teacher='kdteacher arch=mlp\ dims=2,3'
sh -c "gst-launch-1.0 -q trysource n-rows=200 ! tryaugment ! $teacher ! tryselector margin=0.01 mode=drop ! $student ! tryloss delta=0.5 ! kdtrain"
sh -c "gst-launch-1.0 -q trysource n-rows=200 ! $teacher ! trytransform ! kdh5sink location=$root/out.h5"
"$kd" launch -q 'trysource n-rows=200 ! kdstudent arch="mlp dims=2,8,3" ! kdce ! kdtrain'
echo "five kinds built, tested and run"
