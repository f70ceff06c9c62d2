// What a rank records of each step and each evaluation. Times are nanoseconds, on CLOCK_MONOTONIC where
// absolute.
#pragma once

#include <cstdint>

#include "telemetry/record_ring.h"
#include "telemetry/wire_use.h"

namespace annulus {

// Losses are added as integers in this unit, so that sums do not depend on the order.
inline constexpr double kLossUnitNats = 1.0 / (1 << 24);

// One step of one rank. compute_ns + comm_ns + sync_ns = end_ns - begin_ns.
struct StepRecord {
  uint64_t step = 0;     // from 1
  uint64_t attempt = 0;  // of the run: a step that was done again has records of several
  int64_t begin_ns = 0;
  int64_t end_ns = 0;
  int64_t compute_ns = 0;  // input, forward, loss, backward
  int64_t comm_ns = 0;     // publishing, summing and updating, on this rank's compute thread
  int64_t sync_ns = 0;     // waiting for other ranks
  // Part of the exchange's span, from the first bucket published to the last slice updated, that compute went
  // on in: span - comm - sync, at least 0. With --staleness 1 the span of a step reaches into the next one,
  // whose record has that part.
  int64_t hidden_ns = 0;
  int64_t loss_units = 0;  // in kLossUnitNats, over this rank's images
  int64_t images = 0;
  int64_t not_finite = 0;
  // With --clip: L2 norm of the gradient, before clipping, of the last update that the rank has finished:
  // this step's, or with --staleness 1 that of the step before. The same on all ranks.
  double gradient_norm = 0;
  // With several hosts: of what the rank's bridge has exchanged since its last record: this step, or with
  // --staleness 1 the step before.
  WireUse wire = {};
};

// One evaluation of one rank's part of the test images.
struct EvalRecord {
  uint64_t epoch = 0;    // from 1
  uint64_t attempt = 0;  // as StepRecord's
  uint64_t step = 0;     // after which it was made
  int64_t loss_units = 0;
  int64_t correct = 0;
  int64_t images = 0;
  int64_t not_finite = 0;
};

using StepRing = RecordRing<StepRecord, 2048>;
using EvalRing = RecordRing<EvalRecord, 64>;

}  // namespace annulus
