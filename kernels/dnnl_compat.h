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

#include "kernels/data_type.h"
#include "kernels/tensor_layout.h"

namespace annulus::onednn {

using Desc = dnnl::memory::desc;
using Dims = dnnl::memory::dims;
using Tag = dnnl::memory::format_tag;

// kF32 and kBf16.
inline Desc make_desc(const Dims& dims, Tag tag, DataType type = DataType::kF32) {
  return Desc(dims, type == DataType::kBf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32,
              tag);
}
inline Desc any_desc(const Dims& dims, DataType type = DataType::kF32) {
  return make_desc(dims, Tag::any, type);
}

// What the passes of a convolution share beside their tensors: square filter, the same stride both ways, the
// same padding on all four sides. The caller names the algorithm, because oneDNN's `auto` takes Winograd
// where it is slower. A bias of Desc() means none.
struct Convolution {
  int stride = 1;
  int padding = 0;
  bool winograd = false;  // F(4x4, 3x3) instead of direct; oneDNN 3 has none
};
dnnl::convolution_forward::primitive_desc convolution_forward(const dnnl::engine& engine,
                                                              const Convolution& convolution, const Desc& src,
                                                              const Desc& weights, const Desc& bias,
                                                              const Desc& dst, bool relu);
dnnl::convolution_backward_weights::primitive_desc convolution_backward_weights(
    const dnnl::engine& engine, const Convolution& convolution, const Desc& src, const Desc& weights,
    const Desc& bias, const Desc& dst, const dnnl::convolution_forward::primitive_desc& hint);
dnnl::convolution_backward_data::primitive_desc convolution_backward_data(
    const dnnl::engine& engine, const Convolution& convolution, const Desc& src, const Desc& weights,
    const Desc& dst, const dnnl::convolution_forward::primitive_desc& hint);

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

// The same memory as a tensor of all channels that its blocks have room for. `desc` has four dimensions.
Desc with_whole_blocks(const Desc& desc);

DataType type_of(const Desc& desc);  // throws std::runtime_error for any other than kF32 and kBf16

// The same layout for another type of elements.
Desc with_type(const Desc& desc, DataType type);

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

// What bf16 kernels oneDNN has on this machine: none without AVX-512, emulated ones where AVX-512 comes
// without bf16 instructions.
enum class Bf16Support : uint8_t { kNone, kEmulated, kNative };
Bf16Support bf16_support();

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
