// Softmax cross-entropy and its gradient in one pass over the logits.
#pragma once

#include <cstdint>
#include <span>

#include "telemetry/records.h"

namespace annulus {

// Sums over images. Losses are added as integers, in units of 2^-24 nats, so that the sum does not depend on
// the order or on how images were dealt to ranks. An image whose loss is not finite, or kLargest and more, is
// counted in `not_finite` and adds nothing to `loss_units`; so half a million images cannot overflow the sum.
struct LossSum {
  static constexpr double kUnit = kLossUnitNats;
  static constexpr double kLargest = 1 << 20;  // nats

  int64_t loss_units = 0;
  int64_t correct = 0;  // images whose largest logit (the lowest index on ties) is their label
  int64_t images = 0;
  int64_t not_finite = 0;

  LossSum& operator+=(const LossSum& other) {
    loss_units += other.loss_units;
    correct += other.correct;
    images += other.images;
    not_finite += other.not_finite;
    return *this;
  }
  double mean_loss() const;  // nats per image; NaN when not_finite > 0 or there are no images
};

// logits and gradient: batch x classes floats, plain; labels: the first labels.size() <= batch images.
// gradient[i][c] = scale * (softmax(logits[i])[c] - [c == labels[i]]), zero for images without a label.
// Labels are below `classes`, which is at most 256. An image's gradient does not depend on the other images.
LossSum softmax_cross_entropy(std::span<const float> logits, int classes, std::span<const uint8_t> labels,
                              float scale, std::span<float> gradient);

// The same as plain loops in double precision.
LossSum softmax_cross_entropy_reference(std::span<const float> logits, int classes,
                                        std::span<const uint8_t> labels, float scale,
                                        std::span<float> gradient);

}  // namespace annulus
