#!/bin/sh
# commit.sh SOURCE OUTPUT: writes the commit of the checkout SOURCE into the header OUTPUT, and only when it differs
# from what stands there, so that nothing is rebuilt for nothing. Runs at every build, hence no cmake -P: that costs
# more than all the rest of a build with nothing to do.
source=$1 output=$2
commit=unknown
if [ -e "$source/.git" ]; then
  # The checkout may belong to another user than the one who builds.
  commit=$(git -c safe.directory="$source" --no-optional-locks -C "$source" \
    describe --always --abbrev=12 --exclude='*' --dirty 2>/dev/null) || commit=unknown
fi
line="#define ANNULUS_COMMIT \"$commit\""
[ -e "$output" ] && [ "$(cat "$output")" = "$line" ] || echo "$line" >"$output"
