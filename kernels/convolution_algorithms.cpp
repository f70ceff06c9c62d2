#include "kernels/convolution_algorithms.h"

#include <algorithm>
#include <iterator>

#include "kernels/network_plan.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

// Winograd transforms the weights in every call and multiplies 36 small matrices: it needs this many tiles to
// make the first worth it, and this many channels to make the matrices efficient. Where it started to win on
// Zen 4, in all three passes: 64 and 128 channels from one image on, 256 (8x8 images) from 4 to 8, 512 (4x4)
// from 16 to 32; 16 channels: no clear gain.
constexpr int64_t kFewestTiles = 32;
constexpr int kFewestChannels = 32;

// Tiles times channels of one call. Transformed images are 144 bytes for each, so this is 9 MiB of them, and
// as much scratch. Whole steps of ResNet-18, two workers: an eighth of it took half as long again, a quarter
// a tenth more; more images per call gained nothing.
constexpr int64_t kTileChannels = 65536;

constexpr const char* kPasses[] = {kForward, kBackwardWeights, kBackwardData};

constexpr int kTile = 4;  // side of the outputs of a tile

int64_t tiles_of(const LayerSpec& layer, const ImageShape& input) {
  const ImageShape out = output_shape(layer, input);
  return int64_t{(out.height + kTile - 1) / kTile} * ((out.width + kTile - 1) / kTile);
}

}  // namespace

std::string to_text(const ChosenAlgorithms& algorithms) {
  std::string text;
  for (const auto& [place, algorithm] : algorithms) {
    const auto& [layer, pass] = place;
    if (pass != kForward) continue;
    text += (text.empty() ? "" : ",") + layer + "=";
    for (const char* each : kPasses) {
      text += algorithms.at({layer, each}) == ConvolutionAlgorithm::kWinograd ? 'w' : 'd';
    }
  }
  return text;
}

ChosenAlgorithms algorithms_from_text(const std::string& text, const std::string& where,
                                      const NetworkSpec& spec, DataType type) {
  ChosenAlgorithms algorithms;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string entry = text.substr(begin, end - begin);
    begin = end + 1;
    const std::size_t equals = entry.rfind('=');
    const std::string name = entry.substr(0, equals);
    const std::string letters = equals == std::string::npos ? "" : entry.substr(equals + 1);
    if (letters.size() != std::size(kPasses) || letters.find_first_not_of("dw") != std::string::npos) {
      throw UserError::format(
          "{}: \"{}\" is not LAYER=XYZ with a letter each for forward, backward-weights and backward-data: d "
          "for direct, w for Winograd",
          where, entry);
    }
    const auto layer = std::find_if(spec.layers.begin(), spec.layers.end(),
                                    [&](const LayerSpec& of) { return of.name == name; });
    if (layer == spec.layers.end() || layer->kind != LayerKind::kConvolution) {
      throw UserError::format("{}: network {} has no convolution \"{}\"; annulus model lists them", where,
                              spec.name, name);
    }
    if (algorithms.contains({name, kForward})) {
      throw UserError::format("{}: {} is there twice", where, name);
    }
    for (std::size_t pass = 0; pass < std::size(kPasses); ++pass) {
      const bool winograd = letters[pass] == 'w';
      if (winograd && !winograd_fits(*layer, type)) {
        throw UserError::format(
            "{}: Winograd does not fit {}; it needs fp32, a 3x3 filter, stride 1 and padding 0 or 1", where,
            name);
      }
      algorithms[{name, kPasses[pass]}] =
          winograd ? ConvolutionAlgorithm::kWinograd : ConvolutionAlgorithm::kDirect;
    }
  }
  return algorithms;
}

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
