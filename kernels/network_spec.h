// What a network is, before anyone has chosen kernels for it: layers with their shapes, in an order in which
// they can be run.
//
// Activation 0 is the network's input, activation i + 1 the output of layer i. A layer reads the activation
// before it unless it says otherwise, so a chain needs no numbers; residual blocks name the activation that
// their shortcut begins at.
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
std::string text_of(const ImageShape& shape);  // "3x32x32"

enum class LayerKind { kConvolution, kBatchNorm, kMaxPool, kAveragePool, kAdd, kLinear };

inline constexpr int kPreviousActivation = -1;
inline constexpr int kNoActivation = -1;

struct LayerSpec {
  LayerKind kind;
  std::string name = {};  // "conv1"; parameters are called "conv1.weight" and "conv1.bias"
  int out = 0;            // convolution, linear: output channels or features
  int kernel = 0;     // convolution: filter side; max pooling: window side; average pooling is of the image
  int stride = 0;     // of convolution and max pooling; 0: 1 for the former, the window's side for the latter
  int padding = 0;    // the same, zeros on all four sides; windows of max pooling leave them out
  bool bias = true;   // convolution and linear
  bool relu = false;  // ReLU right after the layer; not after pooling
  int input = kPreviousActivation;  // activation that it reads
  int addend = kNoActivation;       // batch norm and add: activation that is added before the ReLU

  bool operator==(const LayerSpec&) const = default;
};

struct NetworkSpec {
  std::string name;  // "simplecnn"
  ImageShape input;
  int classes = 0;
  std::vector<LayerSpec> layers;  // the last one yields `classes` logits

  bool operator==(const NetworkSpec&) const = default;
};

// Whether it has weights, which its input's gradient is computed for.
bool has_parameters(LayerKind kind);
int stride_of(const LayerSpec& layer);
// The activation that layer `index` reads.
int input_of(const NetworkSpec& spec, int index);

// Per activation, the layers that read it, in order; twice where a layer adds its own input.
std::vector<std::vector<int>> readers_of(const NetworkSpec& spec);

// Per activation, whether a layer before it has parameters, so that its gradient is of use.
std::vector<bool> needs_gradient(const NetworkSpec& spec);

// Shape of what `layer` makes of `input`; a linear layer's is {out, 1, 1}. Throws UserError, naming the layer
// and both shapes, where the input is too small.
ImageShape output_shape(const LayerSpec& layer, const ImageShape& input);

// Shapes of all activations: layers.size() + 1. Throws UserError where the network is impossible: a layer
// that reads what is not there yet, an addend of another shape, an end that does not yield `classes` logits.
std::vector<ImageShape> activation_shapes(const NetworkSpec& spec);

}  // namespace annulus
