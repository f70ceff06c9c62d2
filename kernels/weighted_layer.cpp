#include "kernels/weighted_layer.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "kernels/parallel_for.h"
#include "kernels/relu.h"

namespace annulus {
namespace {

constexpr const char* kForward = "forward";
constexpr const char* kBackwardData = "backward-data";
constexpr const char* kBackwardWeights = "backward-weights";
constexpr int64_t kLineBytes = 64;

int64_t whole_lines(size_t bytes) {
  return (static_cast<int64_t>(bytes) + kLineBytes - 1) / kLineBytes * kLineBytes;
}

// How good a kernel is by its name: reference loops, matrix multiplication behind copies, code generated for
// it.
int kernel_class(const std::string& implementation) {
  const auto has = [&](const char* part) { return implementation.find(part) != std::string::npos; };
  if (has("ref")) return 0;
  if (has("gemm") && !has("brgemm")) return 1;
  return 2;
}

int kernel_class(const dnnl::primitive_desc& desc) { return kernel_class(onednn::implementation_name(desc)); }

}  // namespace

int64_t WeightedLayer::Pass::view_bytes() const {
  return view_desc ? whole_lines(viewed_desc.get_size()) : 0;
}

// Scratch of a pass: the view, then the larger of both primitives' scratchpads.
int64_t WeightedLayer::Pass::scratch_bytes() const {
  size_t pad = desc.scratchpad_desc().get_size();
  if (view_desc) pad = std::max(pad, view_desc->scratchpad_desc().get_size());
  return view_bytes() + whole_lines(pad);
}

WeightedLayer::WeightedLayer(const LayerContext& context, const LayerSpec& spec,
                             const WeightedLayerPlan& plan, bool mask_gradient)
    : context_(context),
      name_(spec.name),
      outputs_(spec.out),
      fan_in_(plan.fan_in),
      mask_gradient_(mask_gradient),
      src_desc_(plan.src),
      dst_desc_(plan.dst),
      bias_desc_(onednn::make_desc({spec.out}, onednn::Tag::a)) {
  backward_weights_ = choose_writer(plan);
  master_desc_ = backward_weights_.weights_desc;
  // Both calls need master_desc_ and the dimensions in it.
  forward_ = choose(kForward, plan.forward);
  if (plan.backward_data) backward_data_ = choose(kBackwardData, plan.backward_data);

  weights_ = onednn::make_read_only_memory(master_desc_, context_.engine);
  bias_ = onednn::make_read_only_memory(bias_desc_, context_.engine);
  diff_weights_ = onednn::make_memory(master_desc_, context_.engine);
  diff_bias_ = onednn::make_memory(bias_desc_, context_.engine);
  dst_lines_ = whole_lines(dst_desc_.get_size()) / kLineBytes;
}

WeightedLayer::Pass WeightedLayer::checked(const char* name, dnnl::primitive_desc desc,
                                           const onednn::Desc& weights) const {
  if (!desc) throw std::runtime_error(fmt::format("layer {}: oneDNN has no kernel for {}", name_, name));
  const std::string implementation = onednn::implementation_name(desc);
  if (kernel_class(implementation) == 0 && onednn::has_fast_kernels()) {
    throw std::runtime_error(fmt::format(
        "layer {}: {} would run on the reference kernel {}, a planning error", name_, name, implementation));
  }
  Pass pass;
  pass.desc = desc;
  pass.weights_desc = weights;
  pass.primitive = onednn::BoundPrimitive(desc);
  return pass;
}

WeightedLayer::Pass WeightedLayer::choose_writer(const WeightedLayerPlan& plan) const {
  const onednn::Desc any_weights = onednn::any_desc(plan.weight_dims);
  dnnl::primitive_desc desc = plan.backward_weights(plan.src, any_weights);
  onednn::Desc src = plan.src;
  if (!desc || kernel_class(desc) == 0) {
    const dnnl::primitive_desc free =
        plan.backward_weights(onednn::any_desc(onednn::dims_of(plan.src)), any_weights);
    if (free && (!desc || kernel_class(free) > kernel_class(desc))) {
      desc = free;
      src = free.query_md(dnnl::query::src_md);
    }
  }
  Pass pass =
      checked(kBackwardWeights, desc, desc ? desc.query_md(dnnl::query::diff_weights_md) : onednn::Desc());
  if (src != plan.src) add_view(pass, plan.src, src);
  return pass;
}

void WeightedLayer::add_view(Pass& pass, const onednn::Desc& from, const onednn::Desc& to) const {
  pass.viewed_desc = to;
  pass.view_desc = onednn::reorder(context_.engine, from, to);
  pass.view = onednn::BoundPrimitive(*pass.view_desc);
}

WeightedLayer::Pass WeightedLayer::choose(const char* name, const PassMaker& make) const {
  const dnnl::primitive_desc free = make(onednn::any_desc(onednn::dims_of(master_desc_)));
  const dnnl::primitive_desc forced = make(master_desc_);
  if (forced && (!free || kernel_class(forced) >= kernel_class(free)))
    return checked(name, forced, master_desc_);

  Pass pass = checked(name, free, free ? free.query_md(dnnl::query::weights_md) : onednn::Desc());
  add_view(pass, master_desc_, pass.weights_desc);
  return pass;
}

LayerNeeds WeightedLayer::needs() const {
  const int64_t data_scratch = backward_data_ ? backward_data_->scratch_bytes() : 0;
  return {.forward_scratch = forward_.scratch_bytes(),
          .backward_scratch = std::max(backward_weights_.scratch_bytes(), data_scratch),
          .keeps_dst = mask_gradient_,
          .in_place = false};
}

KernelPlan WeightedLayer::kernel_of(const char* name, const Pass& pass) const {
  return {name_, name, onednn::implementation_name(pass.desc), onednn::layout_of(pass.weights_desc).tag(),
          pass.view_desc.has_value()};
}

void WeightedLayer::describe(int index, NetworkPlan& plan) const {
  plan.parameters.push_back({name_ + ".weight", onednn::layout_of(master_desc_), index, fan_in_});
  plan.parameters.push_back({name_ + ".bias", onednn::layout_of(bias_desc_), index, fan_in_});
  plan.kernels.push_back(kernel_of(kForward, forward_));
  plan.kernels.push_back(kernel_of(kBackwardWeights, backward_weights_));
  if (backward_data_) plan.kernels.push_back(kernel_of(kBackwardData, *backward_data_));
}

// Gives the pass its scratchpad and argument `viewed_arg`: the original, or a view of it.
void WeightedLayer::bind_inputs(Pass& pass, int viewed_arg, const dnnl::memory& original,
                                void* scratch) const {
  const auto scratchpad = [&](const dnnl::primitive_desc_base& desc) {
    void* pad = static_cast<std::byte*>(scratch) + pass.view_bytes();
    return memory_at(desc.scratchpad_desc(), pad);
  };
  pass.primitive.set(DNNL_ARG_SCRATCHPAD, scratchpad(pass.desc));
  if (!pass.view_desc) {
    pass.primitive.set(viewed_arg, original);
    return;
  }
  const dnnl::memory view = memory_at(pass.viewed_desc, scratch);
  pass.primitive.set(viewed_arg, view);
  pass.view.set(DNNL_ARG_FROM, original);
  pass.view.set(DNNL_ARG_TO, view);
  pass.view.set(DNNL_ARG_SCRATCHPAD, scratchpad(*pass.view_desc));
}

dnnl::memory WeightedLayer::memory_at(const onednn::Desc& desc, void* address) const {
  dnnl::memory memory = onednn::make_memory(desc, context_.engine);
  memory.set_data_handle(address);
  return memory;
}

void WeightedLayer::bind(const LayerBuffers& buffers) {
  buffers_ = buffers;
  const dnnl::memory src = memory_at(src_desc_, buffers.src);
  const dnnl::memory diff_dst = memory_at(dst_desc_, buffers.diff_dst);

  bind_inputs(forward_, DNNL_ARG_WEIGHTS, weights_, buffers.forward_scratch);
  forward_.primitive.set(DNNL_ARG_SRC, src);
  forward_.primitive.set(DNNL_ARG_BIAS, bias_);
  forward_.primitive.set(DNNL_ARG_DST, memory_at(dst_desc_, buffers.dst));

  bind_inputs(backward_weights_, DNNL_ARG_SRC, src, buffers.backward_scratch);
  backward_weights_.primitive.set(DNNL_ARG_DIFF_DST, diff_dst);
  backward_weights_.primitive.set(DNNL_ARG_DIFF_WEIGHTS, diff_weights_);
  backward_weights_.primitive.set(DNNL_ARG_DIFF_BIAS, diff_bias_);

  if (!backward_data_) return;
  bind_inputs(*backward_data_, DNNL_ARG_WEIGHTS, weights_, buffers.backward_scratch);
  backward_data_->primitive.set(DNNL_ARG_DIFF_DST, diff_dst);
  backward_data_->primitive.set(DNNL_ARG_DIFF_SRC, memory_at(src_desc_, buffers.diff_src));
}

void WeightedLayer::set_parameter_offsets(std::span<const int64_t> offsets) {
  weights_offset_ = offsets[0];
  bias_offset_ = offsets[1];
}

void WeightedLayer::run(const Pass& pass) const {
  if (pass.view_desc) pass.view.run(context_.stream);
  pass.primitive.run(context_.stream);
}

void WeightedLayer::forward(const float* weights) {
  // oneDNN's interface knows no const; make_read_only_memory keeps it from writing.
  weights_.set_data_handle(const_cast<float*>(weights + weights_offset_));
  bias_.set_data_handle(const_cast<float*>(weights + bias_offset_));
  run(forward_);
}

void WeightedLayer::backward(const float* weights, float* gradients) {
  if (mask_gradient_) {
    const auto* dst = static_cast<const float*>(buffers_.dst);
    auto* diff_dst = static_cast<float*>(buffers_.diff_dst);
    parallel_for(context_.threads, dst_lines_, [&](int64_t begin, int64_t end) {
      relu_backward(16 * (end - begin), dst + 16 * begin, diff_dst + 16 * begin);
    });
  }
  diff_weights_.set_data_handle(gradients + weights_offset_);
  diff_bias_.set_data_handle(gradients + bias_offset_);
  run(backward_weights_);
  if (!backward_data_) return;
  weights_.set_data_handle(const_cast<float*>(weights + weights_offset_));
  run(*backward_data_);
}

}  // namespace annulus
