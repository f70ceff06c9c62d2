#include "kernels/weighted_layer.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "kernels/arena_plan.h"
#include "kernels/elementwise.h"
#include "kernels/parallel_for.h"
#include "kernels/reduce.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

constexpr int64_t kFloat = sizeof(float);

constexpr auto whole_lines = ArenaPlan::whole_lines;

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

onednn::Desc bias_desc(const LayerSpec& spec, int64_t channels) {
  return spec.bias ? onednn::make_desc({channels}, onednn::Tag::a) : onednn::Desc();
}

UserError no_fast_kernel(const LayerSpec& spec, const char* pass, const onednn::Desc& src,
                         const onednn::Desc& dst, const std::string& found) {
  const auto shape = [](const onednn::Desc& desc) {
    const onednn::Dims dims = onednn::dims_of(desc);
    return fmt::format("{}", fmt::join(dims.begin() + 1, dims.end(), "x"));
  };
  const bool convolution = spec.kind == LayerKind::kConvolution;
  const bool bf16 = onednn::type_of(src) == DataType::kBf16;
  return UserError::format(
      "layer {}: {} on {} has {} for {} from {} to {}{} in {}; give {}{}", spec.name, onednn::library_name(),
      onednn::effective_isa(), found.empty() ? "no kernel" : "no kernel but the slow " + found, pass,
      shape(src), shape(dst),
      convolution
          ? fmt::format(" (kernel {}, stride {}, padding {})", spec.kernel, stride_of(spec), spec.padding)
          : "",
      bf16 ? "bf16" : "fp32",
      convolution ? "another kernel, stride or padding, or larger images" : "another number of outputs",
      bf16 ? ", or --precision fp32" : "");
}

int64_t WeightedLayer::Pass::view_bytes() const {
  return has_view() ? whole_lines(static_cast<int64_t>(viewed_desc.get_size())) : 0;
}

int64_t WeightedLayer::Pass::scratchpad_bytes() const {
  const size_t own = desc.scratchpad_desc().get_size();
  const size_t views = view_desc ? view_desc->scratchpad_desc().get_size() : 0;
  return whole_lines(static_cast<int64_t>(std::max(own, views)));
}

WeightedLayer::WeightedLayer(const LayerContext& context, const LayerSpec& spec,
                             const WeightedLayerPlan& plan, bool mask_gradient)
    : context_(context),
      spec_(spec),
      fan_in_(plan.fan_in),
      bias_count_(spec.bias ? plan.weight_dims[0] : 0),
      mask_gradient_(mask_gradient),
      src_desc_(plan.src),
      dst_desc_(plan.dst),
      seen_dst_desc_(plan.seen_dst),
      diff_dst_desc_(plan.diff_dst),
      bias_desc_(bias_desc(spec, plan.weight_dims[0])),
      trained_dims_(plan.trained_dims) {
  backward_weights_ = choose_writer(plan);
  master_desc_ = backward_weights_.weights_desc;
  weight_count_ = onednn::layout_of(master_desc_).padded_elements();
  // Both calls need master_desc_ and the dimensions in it.
  forward_ = choose(kForward, plan.forward);
  if (plan.backward_data) backward_data_ = choose(kBackwardData, plan.backward_data);

  src_ = onednn::make_memory(src_desc_, context_.engine);
  dst_ = onednn::make_memory(dst_desc_, context_.engine);
  diff_src_ = onednn::make_memory(src_desc_, context_.engine);
  diff_dst_ = onednn::make_memory(diff_dst_desc_, context_.engine);
  weights_ = onednn::make_read_only_memory(master_desc_, context_.engine);
  diff_weights_ = onednn::make_memory(master_desc_, context_.engine);

  bind_input(forward_, DNNL_ARG_WEIGHTS, weights_);
  forward_.primitive.set(DNNL_ARG_SRC, src_);
  forward_.primitive.set(DNNL_ARG_DST, dst_);

  bind_input(backward_weights_, DNNL_ARG_SRC, src_);
  backward_weights_.primitive.set(DNNL_ARG_DIFF_DST, diff_dst_);
  backward_weights_.primitive.set(DNNL_ARG_DIFF_WEIGHTS, diff_weights_);

  if (bias_count_ > 0) {
    bias_ = onednn::make_read_only_memory(bias_desc_, context_.engine);
    diff_bias_ = onednn::make_memory(bias_desc_, context_.engine);
    forward_.primitive.set(DNNL_ARG_BIAS, bias_);
    backward_weights_.primitive.set(DNNL_ARG_DIFF_BIAS, diff_bias_);
  }

  if (!backward_data_) return;
  bind_input(*backward_data_, DNNL_ARG_WEIGHTS, weights_);
  backward_data_->primitive.set(DNNL_ARG_DIFF_DST, diff_dst_);
  backward_data_->primitive.set(DNNL_ARG_DIFF_SRC, diff_src_);
}

WeightedLayer::Pass WeightedLayer::checked(const char* name, dnnl::primitive_desc desc,
                                           const onednn::Desc& weights) const {
  if (!desc) throw no_fast_kernel(spec_, name, src_desc_, dst_desc_, "");
  const std::string implementation = onednn::implementation_name(desc);
  if (kernel_class(implementation) == 0 && onednn::has_fast_kernels()) {
    throw no_fast_kernel(spec_, name, src_desc_, dst_desc_, implementation);
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
        plan.backward_weights(onednn::any_desc(onednn::dims_of(plan.src), context_.type), any_weights);
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
  if (from == master_desc_) {
    pass.weight_view = plan_weight_view(onednn::layout_of(from), onednn::layout_of(to), onednn::type_of(to));
    if (pass.weight_view) return;
  }
  pass.view_desc = onednn::reorder(context_.engine, from, to);
  pass.view = onednn::BoundPrimitive(*pass.view_desc);
}

WeightedLayer::Pass WeightedLayer::choose(const char* name, const PassMaker& make) const {
  const dnnl::primitive_desc free = make(onednn::any_desc(onednn::dims_of(master_desc_), context_.type));
  if (context_.type == onednn::type_of(master_desc_)) {
    const dnnl::primitive_desc forced = make(master_desc_);
    if (forced && (!free || kernel_class(forced) >= kernel_class(free)))
      return checked(name, forced, master_desc_);
  }

  Pass pass = checked(name, free, free ? free.query_md(dnnl::query::weights_md) : onednn::Desc());
  add_view(pass, master_desc_, pass.weights_desc);
  return pass;
}

// Scratch of the backward pass: the view of either part, then one scratchpad for both.
LayerNeeds WeightedLayer::needs() const {
  int64_t views = backward_weights_.view_bytes(), scratchpad = backward_weights_.scratchpad_bytes();
  if (backward_data_) {
    views += backward_data_->view_bytes();
    scratchpad = std::max(scratchpad, backward_data_->scratchpad_bytes());
  }
  return {.forward_scratch = forward_.view_bytes() + forward_.scratchpad_bytes(),
          .backward_scratch = views + scratchpad,
          .gradients = whole_lines(weight_count_ * kFloat) + whole_lines(bias_count_ * kFloat),
          .reads_src = true,
          .reads_dst = mask_gradient_};
}

void WeightedLayer::plan_kernel(const char* name, Pass& pass, NetworkPlan& plan) const {
  pass.kernel = static_cast<int>(plan.kernels.size());
  plan.kernels.push_back({spec_.name, name, onednn::implementation_name(pass.desc),
                          onednn::layout_of(pass.weights_desc).tag(), pass.has_view()});
}

void WeightedLayer::describe(int index, NetworkPlan& plan) {
  const auto trained = [&](const onednn::Desc& desc) {
    TensorLayout layout = onednn::layout_of(desc);
    std::copy_n(trained_dims_.begin(), layout.dims_count, layout.dims.begin());
    return layout;
  };
  plan.parameters.push_back(
      {spec_.name + ".weight", trained(master_desc_), index, fan_in_, ParameterRole::kWeight});
  if (bias_count_ > 0) {
    plan.parameters.push_back(
        {spec_.name + ".bias", trained(bias_desc_), index, fan_in_, ParameterRole::kBias});
  }
  plan_kernel(kForward, forward_, plan);
  if (mask_gradient_) {
    mask_kernel_ = static_cast<int>(plan.kernels.size());
    plan.kernels.push_back({spec_.name, kReluBackward, "relu", "", false});
  }
  plan_kernel(kBackwardWeights, backward_weights_, plan);
  if (backward_data_) plan_kernel(kBackwardData, *backward_data_, plan);
}

// Gives the pass its scratchpad and argument `viewed_arg`: the original, or a view of it.
void WeightedLayer::bind_input(Pass& pass, int viewed_arg, const dnnl::memory& original) const {
  pass.scratchpad = onednn::make_memory(pass.desc.scratchpad_desc(), context_.engine);
  pass.primitive.set(DNNL_ARG_SCRATCHPAD, pass.scratchpad);
  if (!pass.has_view()) {
    pass.primitive.set(viewed_arg, original);
    return;
  }
  pass.viewed = onednn::make_memory(pass.viewed_desc, context_.engine);
  if (pass.weight_view) {
    pass.primitive.set(viewed_arg, pass.viewed);
    return;
  }
  pass.view_scratchpad = onednn::make_memory(pass.view_desc->scratchpad_desc(), context_.engine);
  pass.primitive.set(viewed_arg, pass.viewed);
  pass.view.set(DNNL_ARG_FROM, original);
  pass.view.set(DNNL_ARG_TO, pass.viewed);
  pass.view.set(DNNL_ARG_SCRATCHPAD, pass.view_scratchpad);
}

void WeightedLayer::set_parameter_offsets(std::span<const int64_t> offsets) {
  weights_offset_ = offsets[0];
  if (bias_count_ > 0) bias_offset_ = offsets[1];
}

void WeightedLayer::run(Pass& pass, const Scratch& scratch, bool renew_view) const {
  onednn::move_to(scratch.pad, pass.scratchpad);
  if (pass.has_view() && renew_view) {
    context_.timed(pass.kernel, &KernelTime::view_ns, [&] {
      if (pass.weight_view) {
        make_view(*pass.weight_view, context_.threads, master_weights_, scratch.view);
      } else {
        onednn::move_to(scratch.view, pass.viewed);
        onednn::move_to(scratch.pad, pass.view_scratchpad);
        pass.view.run(context_.stream);
      }
    });
  }
  if (pass.has_view()) onednn::move_to(scratch.view, pass.viewed);
  context_.timed(pass.kernel, &KernelTime::kernel_ns, [&] { pass.primitive.run(context_.stream); });
}

void WeightedLayer::forward(const Portion& portion, const float* weights) {
  auto* const scratch = static_cast<std::byte*>(portion.scratch);
  onednn::move_to(portion.src, src_);
  onednn::move_to(portion.dst, dst_);
  master_weights_ = weights + weights_offset_;
  onednn::move_to(master_weights_, weights_);
  if (bias_count_ > 0) onednn::move_to(weights + bias_offset_, bias_);
  run(forward_, {scratch, scratch + forward_.view_bytes()}, portion.first);
}

void WeightedLayer::mask_by_relu(const Portion& portion) const {
  const int64_t elements = onednn::layout_of(dst_desc_).padded_elements();
  context_.timed(mask_kernel_, &KernelTime::kernel_ns, [&] {
    parallel_for(context_.threads, elements, [&](int64_t begin, int64_t end) {
      relu_backward(context_.type, end - begin, element(context_.type, portion.dst, begin),
                    element(context_.type, portion.diff_dst, begin));
    });
  });
}

// Adds one portion's gradients to those of the portions before it.
void WeightedLayer::add_to(float* sum, const float* addend, int64_t count) const {
  context_.timed(backward_weights_.kernel, &KernelTime::kernel_ns, [&] {
    parallel_for(context_.threads, count, [&](int64_t begin, int64_t end) {
      add(end - begin, sum + begin, addend + begin, sum + begin);
    });
  });
}

void WeightedLayer::backward(const Portion& portion, const float* weights, float* gradients) {
  if (mask_gradient_) mask_by_relu(portion);
  float* const sum_weights = gradients + weights_offset_;
  float* const sum_bias = gradients + bias_offset_;
  // oneDNN cannot add, so later portions write beside the sum.
  float* const own_weights = portion.first ? sum_weights : static_cast<float*>(portion.gradients);
  float* const own_bias =
      portion.first ? sum_bias : own_weights + whole_lines(weight_count_ * kFloat) / kFloat;

  auto* const input_view = static_cast<std::byte*>(portion.scratch);
  auto* const weights_view = input_view + backward_weights_.view_bytes();
  auto* const pad = weights_view + (backward_data_ ? backward_data_->view_bytes() : 0);
  onednn::move_to(portion.src, src_);
  onednn::move_to(portion.diff_dst, diff_dst_);
  onednn::move_to(own_weights, diff_weights_);
  if (bias_count_ > 0) onednn::move_to(own_bias, diff_bias_);
  run(backward_weights_, {input_view, pad}, true);
  if (!portion.first) {
    add_to(sum_weights, own_weights, weight_count_);
    add_to(sum_bias, own_bias, bias_count_);
  }
  if (!backward_data_) return;
  master_weights_ = weights + weights_offset_;
  onednn::move_to(master_weights_, weights_);
  onednn::move_to(portion.diff_src, diff_src_);
  run(*backward_data_, {weights_view, pad}, portion.first);
}

}  // namespace annulus
