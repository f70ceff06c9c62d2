// The one place that knows how oneDNN 2.x and 3.x differ: how primitives are described, how a memory
// descriptor is read, and how a buffer is handed over.
//
// Every primitive is made with a user-mode scratchpad, so that its memory comes from the worker's arena.
// Makers return an empty descriptor where oneDNN has no kernel for the layouts asked for.
#pragma once

#include <cstdint>
#include <dnnl.hpp>
#include <string>
#include <vector>

#include "kernels/tensor_layout.h"

namespace annulus::onednn {

using Desc = dnnl::memory::desc;
using Dims = dnnl::memory::dims;
using Tag = dnnl::memory::format_tag;

// Type of activations, weights and gradients.
inline constexpr auto kDataType = dnnl::memory::data_type::f32;

inline Desc make_desc(const Dims& dims, Tag tag) { return Desc(dims, kDataType, tag); }
inline Desc any_desc(const Dims& dims) { return make_desc(dims, Tag::any); }

// Square filter, stride 1, the same padding on all four sides; direct algorithm, because `auto` takes
// Winograd where it is slower and whose bits depend on the batch.
dnnl::convolution_forward::primitive_desc convolution_forward(const dnnl::engine& engine, const Desc& src,
                                                              const Desc& weights, const Desc& bias,
                                                              const Desc& dst, int padding, bool relu);
dnnl::convolution_backward_weights::primitive_desc convolution_backward_weights(
    const dnnl::engine& engine, const Desc& src, const Desc& weights, const Desc& bias, const Desc& dst,
    int padding, const dnnl::convolution_forward::primitive_desc& hint);
dnnl::convolution_backward_data::primitive_desc convolution_backward_data(
    const dnnl::engine& engine, const Desc& src, const Desc& weights, const Desc& dst, int padding,
    const dnnl::convolution_forward::primitive_desc& hint);

dnnl::inner_product_forward::primitive_desc linear_forward(const dnnl::engine& engine, const Desc& src,
                                                           const Desc& weights, const Desc& bias,
                                                           const Desc& dst, bool relu);
dnnl::inner_product_backward_weights::primitive_desc linear_backward_weights(
    const dnnl::engine& engine, const Desc& src, const Desc& weights, const Desc& bias, const Desc& dst,
    const dnnl::inner_product_forward::primitive_desc& hint);
dnnl::inner_product_backward_data::primitive_desc linear_backward_data(
    const dnnl::engine& engine, const Desc& src, const Desc& weights, const Desc& dst,
    const dnnl::inner_product_forward::primitive_desc& hint);

// Copies `from` into the layout of `to`.
dnnl::reorder::primitive_desc reorder(const dnnl::engine& engine, const Desc& from, const Desc& to);

Dims dims_of(const Desc& desc);

// Layouts of activations that our own kernels understand. In all of them images lie one after another.
struct ActivationLayout {
  Tag tag;
  int64_t channels;  // that lie side by side
};

// Throws std::runtime_error for any other layout. `desc` has four dimensions.
ActivationLayout activation_layout(const Desc& desc);

// The same layout for another number of images, of which one portion after another may lie in memory.
Desc with_images(const Desc& desc, int64_t images);

// Throws std::runtime_error when the descriptor is not a plain or blocked layout with at most
// TensorLayout::kMaxDims dimensions.
TensorLayout layout_of(const Desc& desc);

// Name of the kernel that oneDNN chose, "jit:avx512_core".
std::string implementation_name(const dnnl::primitive_desc& desc);

std::string library_name();   // "oneDNN 2.6.3 OpenMP"
std::string effective_isa();  // "avx512_core"

// Whether oneDNN has generated code for the kernels we use on this machine, so that a reference kernel means
// that a layout was chosen badly.
bool has_fast_kernels();

// Memory objects without a buffer yet; give them one with move_to.
//
// oneDNN 2.x documents that it may write zeros into the padding of whatever buffer it is handed. Weights are
// read by several workers at once and must not be written, so for them the memory object hides the padding.
dnnl::memory make_memory(const Desc& desc, const dnnl::engine& engine);
dnnl::memory make_read_only_memory(const Desc& desc, const dnnl::engine& engine);

// Gives a memory object a buffer. oneDNN's interface knows no const: a buffer that must not be written needs
// a read-only memory object, else oneDNN 2.x writes zeros into its padding right away.
void move_to(const void* address, dnnl::memory& memory);

// A primitive and its arguments, put together once. Running it goes through the C interface because the C++
// one builds a new list of arguments in every call.
class BoundPrimitive {
 public:
  BoundPrimitive() = default;
  explicit BoundPrimitive(const dnnl::primitive_desc_base& desc) : primitive_(desc.get()) {}

  // `arg` is a DNNL_ARG_ number. The buffer of `memory` may be changed until the primitive runs.
  void set(int arg, const dnnl::memory& memory);
  void run(const dnnl::stream& stream) const;

 private:
  dnnl::primitive primitive_;
  std::vector<dnnl::memory> memories_;  // keeps alive what arguments_ points to
  std::vector<dnnl_exec_arg_t> arguments_;
};

}  // namespace annulus::onednn
