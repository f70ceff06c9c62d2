// Runs a test once for every instruction set that Highway could pick on this machine.
#pragma once

#include <gtest/gtest.h>
#include <hwy/targets.h>

namespace annulus {

template <typename Body>
void for_each_target(Body body) {
  const int64_t supported = hwy::SupportedTargets();
  for (int64_t left = supported; left != 0; left &= left - 1) {
    const int64_t target = left & -left;
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    body();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace annulus
