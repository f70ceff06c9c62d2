// What a network is, before anyone has chosen kernels for it: a list of layers with their shapes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace annulus {

struct ImageShape {
  int channels = 0, height = 0, width = 0;
  int64_t pixels() const { return int64_t{channels} * height * width; }
  bool operator==(const ImageShape&) const = default;
};

enum class LayerKind { kConvolution, kMaxPool, kLinear };

struct LayerSpec {
  LayerKind kind;
  std::string name;   // "conv1"; parameters are called "conv1.weight" and "conv1.bias"
  int out = 0;        // output channels or features; unused by pooling
  int kernel = 0;     // convolution: filter side; pooling: window side, which is also its stride
  int padding = 0;    // convolution only
  bool relu = false;  // ReLU right after the layer
};

struct NetworkSpec {
  std::string name;  // "simplecnn"
  ImageShape input;
  int classes = 0;
  std::vector<LayerSpec> layers;  // the last one yields `classes` logits
};

// Shape of what `layer` makes of `input`; a linear layer's is {out, 1, 1}. Throws UserError, naming the layer
// and both shapes, where the input is too small.
ImageShape output_shape(const LayerSpec& layer, const ImageShape& input);

}  // namespace annulus
