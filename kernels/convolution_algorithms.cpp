#include "kernels/convolution_algorithms.h"

#include <algorithm>

namespace annulus {
namespace {

// Winograd transforms the weights in every call and multiplies 36 small matrices: it needs this many tiles to
// make the first worth it, and this many channels to make the matrices efficient. Where it started to win on
// Zen 4, in all three passes: 64 and 128 channels from one image on, 256 (8x8 images) from 4 to 8, 512 (4x4)
// from 16 to 32; 16 channels: no clear gain.
constexpr int64_t kFewestTiles = 32;
constexpr int kFewestChannels = 32;

// Tiles times channels of one call. Transformed images are 144 bytes for each, so this is 4.5 MiB of them.
// The fastest calls for 64 to 512 channels at 32x32 to 4x4 had a quarter of this to twice as much; 64 images
// of 64x32x32 at once took 1.2 to 1.5 times as long as 8 times 8.
constexpr int64_t kTileChannels = 32768;

constexpr int kTile = 4;  // side of the outputs of a tile

int64_t tiles_of(const LayerSpec& layer, const ImageShape& input) {
  const ImageShape out = output_shape(layer, input);
  return int64_t{(out.height + kTile - 1) / kTile} * ((out.width + kTile - 1) / kTile);
}

}  // namespace

bool winograd_fits(const LayerSpec& layer, DataType type) {
  return layer.kind == LayerKind::kConvolution && layer.kernel == 3 && stride_of(layer) == 1 &&
         layer.padding <= 1 && type == DataType::kF32;
}

ConvolutionAlgorithm choose_algorithm(const LayerSpec& layer, const ImageShape& input, int64_t images,
                                      DataType type) {
  const bool wins = winograd_fits(layer, type) && std::min(input.channels, layer.out) >= kFewestChannels &&
                    tiles_of(layer, input) * images >= kFewestTiles;
  return wins ? ConvolutionAlgorithm::kWinograd : ConvolutionAlgorithm::kDirect;
}

int64_t images_per_call(const LayerSpec& layer, const ImageShape& input, int64_t images, int threads,
                        DataType type) {
  if (choose_algorithm(layer, input, images, type) == ConvolutionAlgorithm::kDirect) return images;
  const int64_t most =
      std::max<int64_t>(threads * kTileChannels / (tiles_of(layer, input) * input.channels), 1);
  for (int64_t portion = std::min(most, images); 2 * portion > most; --portion) {
    if (images % portion == 0) return portion;
  }
  return images;
}

}  // namespace annulus
