#include "kernels/dnnl_compat.h"

#include <dnnl_config.h>
#include <dnnl_version.h>
#include <fmt/format.h>

#include <stdexcept>

namespace annulus::onednn {
namespace {

dnnl::primitive_attr make_attr(bool relu = false) {
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (relu) {
    dnnl::post_ops ops;
#if DNNL_VERSION_MAJOR >= 3
    ops.append_eltwise(dnnl::algorithm::eltwise_relu, 0.0F, 0.0F);
#else
    ops.append_eltwise(1.0F, dnnl::algorithm::eltwise_relu, 0.0F, 0.0F);
#endif
    attr.set_post_ops(ops);
  }
  return attr;
}

constexpr auto kTraining = dnnl::prop_kind::forward_training;
constexpr bool kAllowEmpty = true;

// oneDNN 3.x describes a primitive in the constructor of its descriptor, 2.x in a separate `desc` that
// already throws on combinations it does not know.
#if DNNL_VERSION_MAJOR >= 3
template <typename Primitive, typename... Args>
typename Primitive::primitive_desc make_forward(const dnnl::engine& engine, bool relu, const Args&... args) {
  return typename Primitive::primitive_desc(engine, args..., make_attr(relu), kAllowEmpty);
}
template <typename Primitive, typename Hint, typename... Args>
typename Primitive::primitive_desc make_backward(const dnnl::engine& engine, const Hint& hint,
                                                 const Args&... args) {
  return typename Primitive::primitive_desc(engine, args..., hint, make_attr(), kAllowEmpty);
}
#else
template <typename Primitive, typename... Args>
typename Primitive::primitive_desc make_forward(const dnnl::engine& engine, bool relu, const Args&... args) {
  return typename Primitive::primitive_desc(typename Primitive::desc(args...), make_attr(relu), engine,
                                            kAllowEmpty);
}
template <typename Primitive, typename Hint, typename... Args>
typename Primitive::primitive_desc make_backward(const dnnl::engine& engine, const Hint& hint,
                                                 const Args&... args) {
  return typename Primitive::primitive_desc(typename Primitive::desc(args...), make_attr(), engine, hint,
                                            kAllowEmpty);
}
#endif

Dims both_ways(int count) { return {count, count}; }

dnnl::algorithm algorithm_of(const Convolution& convolution) {
  return convolution.winograd ? dnnl::algorithm::convolution_winograd : dnnl::algorithm::convolution_direct;
}

}  // namespace

dnnl::convolution_forward::primitive_desc convolution_forward(const dnnl::engine& engine,
                                                              const Convolution& convolution, const Desc& src,
                                                              const Desc& weights, const Desc& bias,
                                                              const Desc& dst, bool relu) {
  return make_forward<dnnl::convolution_forward>(
      engine, relu, kTraining, algorithm_of(convolution), src, weights, bias, dst,
      both_ways(convolution.stride), both_ways(convolution.padding), both_ways(convolution.padding));
}

dnnl::convolution_backward_weights::primitive_desc convolution_backward_weights(
    const dnnl::engine& engine, const Convolution& convolution, const Desc& src, const Desc& weights,
    const Desc& bias, const Desc& dst, const dnnl::convolution_forward::primitive_desc& hint) {
  return make_backward<dnnl::convolution_backward_weights>(
      engine, hint, algorithm_of(convolution), src, weights, bias, dst, both_ways(convolution.stride),
      both_ways(convolution.padding), both_ways(convolution.padding));
}

dnnl::convolution_backward_data::primitive_desc convolution_backward_data(
    const dnnl::engine& engine, const Convolution& convolution, const Desc& src, const Desc& weights,
    const Desc& dst, const dnnl::convolution_forward::primitive_desc& hint) {
  return make_backward<dnnl::convolution_backward_data>(
      engine, hint, algorithm_of(convolution), src, weights, dst, both_ways(convolution.stride),
      both_ways(convolution.padding), both_ways(convolution.padding));
}

dnnl::inner_product_forward::primitive_desc linear_forward(const dnnl::engine& engine, const Desc& src,
                                                           const Desc& weights, const Desc& bias,
                                                           const Desc& dst, bool relu) {
  return make_forward<dnnl::inner_product_forward>(engine, relu, kTraining, src, weights, bias, dst);
}

dnnl::inner_product_backward_weights::primitive_desc linear_backward_weights(
    const dnnl::engine& engine, const Desc& src, const Desc& weights, const Desc& bias, const Desc& dst,
    const dnnl::inner_product_forward::primitive_desc& hint) {
  return make_backward<dnnl::inner_product_backward_weights>(engine, hint, src, weights, bias, dst);
}

dnnl::inner_product_backward_data::primitive_desc linear_backward_data(
    const dnnl::engine& engine, const Desc& src, const Desc& weights, const Desc& dst,
    const dnnl::inner_product_forward::primitive_desc& hint) {
  return make_backward<dnnl::inner_product_backward_data>(engine, hint, src, weights, dst);
}

dnnl::reorder::primitive_desc reorder(const dnnl::engine& engine, const Desc& from, const Desc& to) {
  return dnnl::reorder::primitive_desc(engine, from, engine, to, make_attr());
}

Dims dims_of(const Desc& desc) {
#if DNNL_VERSION_MAJOR >= 3
  return desc.get_dims();
#else
  return desc.dims();
#endif
}

DataType type_of(const Desc& desc) {
#if DNNL_VERSION_MAJOR >= 3
  const auto type = desc.get_data_type();
#else
  const auto type = desc.data_type();
#endif
  if (type == dnnl::memory::data_type::f32) return DataType::kF32;
  if (type == dnnl::memory::data_type::bf16) return DataType::kBf16;
  throw std::runtime_error("a tensor holds neither fp32 nor bf16");
}

Desc with_type(const Desc& desc, DataType type) {
  if (type_of(desc) == type) return desc;
  const Dims dims = dims_of(desc);
  if (dims.size() == 2) return make_desc(dims, Tag::ab, type);
  return make_desc(dims, activation_layout(desc).tag, type);
}

ActivationLayout activation_layout(const Desc& desc) {
  const Dims dims = dims_of(desc);
  const DataType type = type_of(desc);
  const ActivationLayout known[] = {
      {Tag::nChw16c, 16}, {Tag::nChw8c, 8}, {Tag::nChw4c, 4}, {Tag::nchw, 1}, {Tag::nhwc, dims.at(1)}};
  for (const ActivationLayout& layout : known) {
    if (make_desc(dims, layout.tag, type) == desc) return layout;
  }
  throw std::runtime_error(
      fmt::format("activations lie in layout {}, which we have no kernels for", layout_of(desc).tag()));
}

Desc with_images(const Desc& desc, int64_t images) {
  Dims dims = dims_of(desc);
  if (dims[0] == images) return desc;
  const Tag tag = activation_layout(desc).tag;
  dims[0] = images;
  return make_desc(dims, tag, type_of(desc));
}

Desc with_whole_blocks(const Desc& desc) {
  Dims dims = dims_of(desc);
  const int64_t padded = layout_of(desc).padded_dims[1];
  if (dims[1] == padded) return desc;
  const Tag tag = activation_layout(desc).tag;
  dims[1] = padded;
  return make_desc(dims, tag, type_of(desc));
}

TensorLayout layout_of(const Desc& desc) {
#if DNNL_VERSION_MAJOR >= 3
  if (desc.get_format_kind() != dnnl::memory::format_kind::blocked) {
    throw std::runtime_error("oneDNN chose a layout that is not a blocked one");
  }
  const Dims dims = desc.get_dims(), padded = desc.get_padded_dims(), strides = desc.get_strides();
  const Dims blocks = desc.get_inner_blks(), idxs = desc.get_inner_idxs();
  const int dims_count = desc.get_ndims(), inner_count = desc.get_inner_nblks();
#else
  if (desc.data.format_kind != dnnl_blocked) {
    throw std::runtime_error("oneDNN chose a layout that is not a blocked one");
  }
  const auto& blocking = desc.data.format_desc.blocking;
  const auto* dims = desc.data.dims;
  const auto* padded = desc.data.padded_dims;
  const auto* strides = blocking.strides;
  const auto* blocks = blocking.inner_blks;
  const auto* idxs = blocking.inner_idxs;
  const int dims_count = desc.data.ndims, inner_count = blocking.inner_nblks;
#endif
  if (dims_count > TensorLayout::kMaxDims || inner_count > TensorLayout::kMaxDims) {
    throw std::runtime_error(
        fmt::format("oneDNN chose a layout with {} dimensions and {} inner blocks, more than {}", dims_count,
                    inner_count, TensorLayout::kMaxDims));
  }
  TensorLayout layout;
  layout.dims_count = dims_count;
  layout.inner_count = inner_count;
  for (int d = 0; d < dims_count; ++d) {
    layout.dims[d] = dims[d];
    layout.padded_dims[d] = padded[d];
    layout.strides[d] = strides[d];
  }
  for (int k = 0; k < inner_count; ++k) {
    layout.inner_blocks[k] = blocks[k];
    layout.inner_dims[k] = static_cast<int>(idxs[k]);
  }
  return layout;
}

std::string implementation_name(const dnnl::primitive_desc& desc) { return desc.impl_info_str(); }

std::string library_name() {
#if DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_OMP
  const char* threading = "OpenMP";
#elif DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_TBB
  const char* threading = "oneTBB";
#else
  const char* threading = "sequential";
#endif
  const dnnl_version_t* version = dnnl_version();
  return fmt::format("oneDNN {}.{}.{} {}", version->major, version->minor, version->patch, threading);
}

std::string effective_isa() {
  using Isa = dnnl::cpu_isa;
  switch (dnnl::get_effective_cpu_isa()) {
    case Isa::sse41:
      return "sse41";
    case Isa::avx:
      return "avx";
    case Isa::avx2:
      return "avx2";
    case Isa::avx2_vnni:
      return "avx2_vnni";
    case Isa::avx512_core:
      return "avx512_core";
    case Isa::avx512_core_vnni:
      return "avx512_core_vnni";
    case Isa::avx512_core_bf16:
      return "avx512_core_bf16";
    case Isa::avx512_core_amx:
      return "avx512_core_amx";
#if DNNL_VERSION_MAJOR >= 3
    case Isa::avx2_vnni_2:
      return "avx2_vnni_2";
    case Isa::avx512_core_fp16:
      return "avx512_core_fp16";
    case Isa::avx512_core_amx_fp16:
      return "avx512_core_amx_fp16";
#endif
    default:
      return fmt::format("isa_{:#x}", static_cast<unsigned>(dnnl::get_effective_cpu_isa()));
  }
}

bool has_fast_kernels() {
#if defined(__x86_64__)
  const auto isa = dnnl::get_effective_cpu_isa();
  return isa != dnnl::cpu_isa::sse41 && isa != dnnl::cpu_isa::avx;
#else
  return false;
#endif
}

Bf16Support bf16_support() {
  const std::string isa = effective_isa();
  if (!isa.starts_with("avx512_core")) return Bf16Support::kNone;
  const bool native = isa != "avx512_core" && isa != "avx512_core_vnni";
  return native ? Bf16Support::kNative : Bf16Support::kEmulated;
}

dnnl::memory make_memory(const Desc& desc, const dnnl::engine& engine) {
  return dnnl::memory(desc, engine, DNNL_MEMORY_NONE);
}

dnnl::memory make_read_only_memory(const Desc& desc, const dnnl::engine& engine) {
#if DNNL_VERSION_MAJOR >= 3
  return make_memory(desc, engine);
#else
  // Kernels take layouts from their own descriptors and only the address from the memory object.
  return make_memory(make_desc({layout_of(desc).padded_elements()}, Tag::a), engine);
#endif
}

void move_to(const void* address, dnnl::memory& memory) {
  // oneDNN 2.x allocates in set_data_handle and looks at the padding, even when nothing changes.
  if (memory.get_data_handle() != address) memory.set_data_handle(const_cast<void*>(address));
}

void BoundPrimitive::set(int arg, const dnnl::memory& memory) {
  memories_.push_back(memory);
  arguments_.push_back({arg, memory.get()});
}

void BoundPrimitive::run(const dnnl::stream& stream) const {
  dnnl::error::wrap_c_api(dnnl_primitive_execute(primitive_.get(), stream.get(),
                                                 static_cast<int>(arguments_.size()), arguments_.data()),
                          "a oneDNN primitive failed");
}

}  // namespace annulus::onednn
