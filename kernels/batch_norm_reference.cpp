#include <algorithm>
#include <cmath>

#include "kernels/batch_norm.h"
#include "kernels/stored_element.h"

namespace annulus {
namespace {

// Calls visit(place) for the elements of one channel.
template <class Visit>
void for_each_element(const BatchNormShape& shape, int64_t channel, int64_t images, const Visit& visit) {
  for (int64_t image = 0; image < images; ++image) {
    for (int64_t pixel = 0; pixel < shape.pixels; ++pixel) visit(shape.offset(image, channel, pixel));
  }
}

void clear(const BatchNormShape& shape, void* tensor) {
  std::fill_n(static_cast<char*>(tensor), shape.elements() * size_of(shape.type), 0);
}

void normalize(const BatchNormShape& shape, int64_t channel, int64_t images, const BatchNormForward& tensors,
               float mean, float inv_std) {
  const float scale = tensors.gamma[channel] * inv_std;
  for_each_element(shape, channel, images, [&](int64_t place) {
    float y = (read_element(shape.type, tensors.x, place) - mean) * scale + tensors.beta[channel];
    if (tensors.addend != nullptr) y += read_element(shape.type, tensors.addend, place);
    write_element(shape.type, tensors.relu && y < 0 ? 0.0F : y, tensors.y, place);
  });
}

float inverse_deviation(double variance) {
  return static_cast<float>(1 / std::sqrt(variance + kBatchNormEpsilon));
}

}  // namespace

// Here y is neither x nor the addend.
void batch_norm_forward_reference(const BatchNormShape& shape, const BatchNormForward& tensors,
                                  const BatchStatistics& statistics) {
  clear(shape, tensors.y);
  const auto n = static_cast<double>(shape.images * shape.pixels);
  for (int64_t channel = 0; channel < shape.padded_channels(); ++channel) {
    double sum = 0, squares = 0;
    for_each_element(shape, channel, shape.images,
                     [&](int64_t place) { sum += double{read_element(shape.type, tensors.x, place)}; });
    const double mean = sum / n;
    for_each_element(shape, channel, shape.images, [&](int64_t place) {
      const double difference = read_element(shape.type, tensors.x, place) - mean;
      squares += difference * difference;
    });
    statistics.mean[channel] = static_cast<float>(mean);
    statistics.inv_std[channel] = inverse_deviation(squares / n);
    if (channel >= shape.channels) continue;
    statistics.batch_mean[channel] = static_cast<float>(mean);
    statistics.unbiased_variance[channel] = static_cast<float>(squares / std::max(1.0, n - 1));
    normalize(shape, channel, shape.images, tensors, statistics.mean[channel], statistics.inv_std[channel]);
  }
}

void batch_norm_inference_reference(const BatchNormShape& shape, const BatchNormForward& tensors,
                                    const float* mean, const float* variance) {
  clear(shape, tensors.y);
  for (int64_t channel = 0; channel < shape.channels; ++channel) {
    normalize(shape, channel, shape.tensor_images, tensors, mean[channel],
              inverse_deviation(variance[channel]));
  }
}

// Here dx and diff_addend are buffers of their own.
void batch_norm_backward_reference(const BatchNormShape& shape, const BatchNormBackward& tensors) {
  const auto n = static_cast<double>(shape.images * shape.pixels);
  const auto gradient = [&](int64_t place) {
    float g = read_element(shape.type, tensors.dy, place);
    if (tensors.dy2 != nullptr) g += read_element(shape.type, tensors.dy2, place);
    if (tensors.y != nullptr && !(read_element(shape.type, tensors.y, place) > 0)) g = 0;
    return g;
  };
  clear(shape, tensors.dx);
  void* const g = tensors.diff_addend != nullptr ? tensors.diff_addend : tensors.dx;
  clear(shape, g);
  for (int64_t channel = 0; channel < shape.channels; ++channel) {
    const float mean = tensors.mean[channel], inv_std = tensors.inv_std[channel];
    double sum = 0, product = 0;
    for_each_element(shape, channel, shape.images, [&](int64_t place) {
      write_element(shape.type, gradient(place), g, place);
      sum += double{read_element(shape.type, g, place)};
      product += double{read_element(shape.type, g, place)} *
                 double{read_element(shape.type, tensors.x, place) - mean};
    });
    tensors.dbeta[channel] = static_cast<float>(sum);
    tensors.dgamma[channel] = static_cast<float>(product * inv_std);

    const float scale = tensors.gamma[channel] * inv_std;
    const auto offset = static_cast<float>(sum / n);
    const auto slope = static_cast<float>(product * inv_std * inv_std / n);
    for_each_element(shape, channel, shape.images, [&](int64_t place) {
      const float centred = read_element(shape.type, tensors.x, place) - mean;
      write_element(shape.type, scale * (read_element(shape.type, g, place) - offset - centred * slope),
                    tensors.dx, place);
    });
  }
}

}  // namespace annulus
