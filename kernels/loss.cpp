#include "kernels/loss.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "telemetry/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/loss.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>
// Behind foreach_target.h, since it is compiled once per target.
#include <hwy/contrib/math/math-inl.h>

HWY_BEFORE_NAMESPACE();
namespace annulus::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// values[i] = exp(values[i]) for values <= 0; n is a multiple of 16, values are 64-byte aligned.
void exponentials(int64_t n, float* values) {
  const hn::CappedTag<float, 16> d;
  for (int64_t i = 0; i < n; i += static_cast<int64_t>(hn::Lanes(d))) {
    hn::Store(hn::Exp(d, hn::Load(d, values + i)), d, values + i);
  }
}

}  // namespace annulus::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace annulus {
namespace {

constexpr int kMaxClasses = 256;  // labels are bytes

HWY_EXPORT(exponentials);

void check_sizes(std::span<const float> logits, int classes, std::span<const uint8_t> labels,
                 std::span<float> gradient) {
  CHECK(classes >= 1 && classes <= kMaxClasses, "{} classes", classes);
  CHECK(logits.size() == gradient.size() && labels.size() * classes <= logits.size(),
        "{} logits, {} gradients, {} labels of {} classes", logits.size(), gradient.size(), labels.size(),
        classes);
}

void count(double loss, bool correct, LossSum& sum) {
  ++sum.images;
  sum.correct += correct;
  if (loss < LossSum::kLargest) {
    sum.loss_units += std::llrint(loss / LossSum::kUnit);
  } else {  // NaN too
    ++sum.not_finite;
  }
}

}  // namespace

double LossSum::mean_loss() const {
  if (not_finite > 0 || images == 0) return std::numeric_limits<double>::quiet_NaN();
  return static_cast<double>(loss_units) * kUnit / static_cast<double>(images);
}

LossSum softmax_cross_entropy(std::span<const float> logits, int classes, std::span<const uint8_t> labels,
                              float scale, std::span<float> gradient) {
  check_sizes(logits, classes, labels, gradient);
  const int rounded = (classes + 15) / 16 * 16;
  alignas(64) float shares[kMaxClasses];
  LossSum sum;
  for (size_t image = 0; image < labels.size(); ++image) {
    const float* row = logits.data() + image * classes;
    float* out = gradient.data() + image * classes;
    const int label = labels[image];
    CHECK(label < classes, "label {} of {} classes", label, classes);

    float largest = row[0];
    int winner = 0;
    bool has_nan = std::isnan(row[0]);
    for (int c = 1; c < classes; ++c) {
      has_nan |= std::isnan(row[c]);
      if (row[c] > largest) {
        largest = row[c];
        winner = c;
      }
    }
    if (has_nan || std::isinf(largest)) {
      const float nan = std::numeric_limits<float>::quiet_NaN();
      std::fill_n(out, classes, nan);
      count(nan, !has_nan && winner == label, sum);
      continue;
    }

    for (int c = 0; c < classes; ++c) shares[c] = row[c] - largest;
    std::fill(shares + classes, shares + rounded, 0.0F);
    const double distance = double{largest} - double{row[label]};
    HWY_DYNAMIC_DISPATCH(exponentials)(rounded, shares);
    double total = 0;  // one order of summation on every instruction set
    for (int c = 0; c < classes; ++c) total += shares[c];
    const auto factor = static_cast<float>(1.0 / total);
    for (int c = 0; c < classes; ++c) out[c] = scale * (shares[c] * factor - (c == label ? 1.0F : 0.0F));
    count(std::log(total) + distance, winner == label, sum);
  }
  std::fill(gradient.begin() + static_cast<int64_t>(labels.size()) * classes, gradient.end(), 0.0F);
  return sum;
}

LossSum softmax_cross_entropy_reference(std::span<const float> logits, int classes,
                                        std::span<const uint8_t> labels, float scale,
                                        std::span<float> gradient) {
  check_sizes(logits, classes, labels, gradient);
  LossSum sum;
  std::fill(gradient.begin(), gradient.end(), 0.0F);
  for (size_t image = 0; image < labels.size(); ++image) {
    const auto row = logits.subspan(image * classes, classes);
    const int label = labels[image];
    const auto winner = std::max_element(row.begin(), row.end());
    double total = 0;
    for (const float logit : row) total += std::exp(double{logit} - double{*winner});
    for (int c = 0; c < classes; ++c) {
      const double share = std::exp(double{row[c]} - double{*winner}) / total;
      gradient[image * classes + c] = static_cast<float>(double{scale} * (share - (c == label)));
    }
    count(std::log(total) + double{*winner} - double{row[label]}, winner - row.begin() == label, sum);
  }
  return sum;
}

}  // namespace annulus
#endif  // HWY_ONCE
