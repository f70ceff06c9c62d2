#include "kernels/image_batch.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/image_batch.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace annulus {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// x = byte * scale + shift, with two roundings: a fused multiply-add on some instruction sets alone would
// make the bits of a run depend on the machine.
struct Affine {
  float scale, shift;
  float operator()(uint8_t byte) const { return static_cast<float>(byte) * scale + shift; }
};

// out[i] = affine(in[i]), or out[n - 1 - i] with kReverse. The last vector overlaps the one before it, so
// there is no tail unless n is smaller than a vector.
template <bool kReverse>
void convert_run(Affine affine, const uint8_t* HWY_RESTRICT in, size_t n, float* HWY_RESTRICT out) {
  const hn::ScalableTag<float> df;
  const hn::RebindToSigned<decltype(df)> di;
  const hn::Rebind<uint8_t, decltype(df)> du8;
  const size_t lanes = hn::Lanes(df);
  if (n < lanes) {
    for (size_t i = 0; i < n; ++i) out[kReverse ? n - 1 - i : i] = affine(in[i]);
    return;
  }
  const auto scale = hn::Set(df, affine.scale);
  const auto shift = hn::Set(df, affine.shift);
  for (size_t next = 0; next < n; next += lanes) {
    const size_t i = std::min(next, n - lanes);
    const auto value = hn::ConvertTo(df, hn::PromoteTo(di, hn::LoadU(du8, in + i)));
    const auto result = hn::Add(hn::Mul(value, scale), shift);
    if constexpr (kReverse) {
      hn::StoreU(hn::Reverse(df, result), df, out + (n - lanes - i));
    } else {
      hn::StoreU(result, df, out + i);
    }
  }
}

// One channel, shifted and mirrored row by row.
void convert_channel(const ImageShape& shape, Affine affine, const ImageShift& shift, const uint8_t* in,
                     float* out) {
  const int width = shape.width;
  const int left = std::clamp(shift.dx, 0, width);             // columns of black that move in at the left
  const int right = std::clamp(-shift.dx, 0, width);           // and at the right
  const auto run = static_cast<size_t>(width - left - right);  // columns that stay
  const float black = affine.shift;
  for (int y = 0; y < shape.height; ++y, out += width) {
    const int source = y - shift.dy;
    if (source < 0 || source >= shape.height || run == 0) {
      std::fill_n(out, width, black);
      continue;
    }
    const uint8_t* row = in + source * width + right;
    if (shift.flip) {
      std::fill_n(out, right, black);
      convert_run<true>(affine, row, run, out + right);
      std::fill_n(out + width - left, left, black);
    } else {
      std::fill_n(out, left, black);
      convert_run<false>(affine, row, run, out + left);
      std::fill_n(out + width - right, right, black);
    }
  }
}

void convert_image(const ImageShape& shape, const float* scales, const float* shifts, const ImageShift& shift,
                   const uint8_t* image, float* out) {
  const size_t plane = static_cast<size_t>(shape.height) * static_cast<size_t>(shape.width);
  for (int c = 0; c < shape.channels; ++c, image += plane, out += plane) {
    const Affine affine{scales[c], shifts[c]};
    if (shift.dy == 0 && shift.dx == 0 && !shift.flip) {
      convert_run<false>(affine, image, plane, out);
    } else {
      convert_channel(shape, affine, shift, image, out);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace annulus
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "telemetry/check.h"

namespace annulus {

HWY_EXPORT(convert_image);

namespace {

struct ScaleAndShift {
  std::array<float, 3> scale{}, shift{};

  explicit ScaleAndShift(const Normalization& normalization) {
    for (size_t c = 0; c < 3; ++c) {
      scale[c] = static_cast<float>(1.0 / (255.0 * double{normalization.stddev[c]}));
      shift[c] = static_cast<float>(-double{normalization.mean[c]} / double{normalization.stddev[c]});
    }
  }
};

}  // namespace

void convert_image(const ImageShape& shape, const Normalization& normalization, const ImageShift& shift,
                   const uint8_t* image, float* out) {
  CHECK(shape.channels >= 1 && shape.channels <= 3, "{} channels", shape.channels);
  const ScaleAndShift affine(normalization);
  HWY_DYNAMIC_DISPATCH(convert_image)(shape, affine.scale.data(), affine.shift.data(), shift, image, out);
}

void convert_image_reference(const ImageShape& shape, const Normalization& normalization,
                             const ImageShift& shift, const uint8_t* image, float* out) {
  const ScaleAndShift affine(normalization);
  for (int c = 0; c < shape.channels; ++c) {
    const auto channel = static_cast<size_t>(c);
    for (int y = 0; y < shape.height; ++y) {
      for (int x = 0; x < shape.width; ++x) {
        const int from_y = y - shift.dy;
        const int from_x = (shift.flip ? shape.width - 1 - x : x) - shift.dx;
        const bool inside = from_y >= 0 && from_y < shape.height && from_x >= 0 && from_x < shape.width;
        const uint8_t byte = inside ? image[(c * shape.height + from_y) * shape.width + from_x] : uint8_t{0};
        *out++ = static_cast<float>(byte) * affine.scale[channel] + affine.shift[channel];
      }
    }
  }
}

}  // namespace annulus
#endif  // HWY_ONCE
