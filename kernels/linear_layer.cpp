#include "kernels/linear_layer.h"

#include "kernels/dnnl_compat.h"
#include "kernels/weighted_layer.h"
#include "telemetry/error.h"

namespace annulus {

std::unique_ptr<Layer> make_linear_layer(const LayerContext& context, const LayerSpec& spec,
                                         const dnnl::memory::desc& given_src, bool first, bool last,
                                         bool mask_gradient) {
  if (last && spec.relu && context.type != DataType::kF32) {
    throw UserError::format(
        "layer {}: logits that go through a ReLU are possible in fp32 only; leave relu out, or "
        "give --precision fp32",
        spec.name);
  }
  const TensorLayout input = onednn::layout_of(given_src);
  const int64_t batch = input.dims[0], inputs = input.elements() / batch;
  // As convolutions do, it sees all channels that an image's blocks have room for.
  WeightedLayerPlan plan;
  plan.fan_in = inputs;
  if (input.is_plain()) {
    plan.src = onednn::make_desc({batch, inputs}, onednn::Tag::ab, context.type);
    plan.weight_dims = plan.trained_dims = {spec.out, inputs};
  } else {
    plan.src = onednn::with_whole_blocks(given_src);
    plan.weight_dims = onednn::dims_of(plan.src);
    plan.trained_dims = onednn::dims_of(given_src);
    plan.weight_dims[0] = plan.trained_dims[0] = spec.out;
  }
  const onednn::Desc src = plan.src, bias = bias_desc(spec, spec.out);
  const onednn::Desc diff_dst = onednn::make_desc({batch, spec.out}, onednn::Tag::ab, context.type);
  const onednn::Desc dst = last ? onednn::make_desc({batch, spec.out}, onednn::Tag::ab) : diff_dst;

  const auto free = onednn::linear_forward(
      context.engine, src, onednn::any_desc(plan.weight_dims, context.type), bias, dst, spec.relu);
  if (!free) throw no_fast_kernel(spec, kForward, src, dst, "");

  const dnnl::engine engine = context.engine;
  plan.dst = plan.seen_dst = dst;
  plan.diff_dst = diff_dst;
  plan.forward = [=](const onednn::Desc& weights) -> dnnl::primitive_desc {
    return onednn::linear_forward(engine, src, weights, bias, dst, spec.relu);
  };
  plan.backward_weights = [=](const onednn::Desc& source,
                              const onednn::Desc& weights) -> dnnl::primitive_desc {
    return onednn::linear_backward_weights(engine, source, weights, bias, diff_dst, free);
  };
  if (!first) {
    plan.backward_data = [=](const onednn::Desc& weights) -> dnnl::primitive_desc {
      return onednn::linear_backward_data(engine, src, weights, diff_dst, free);
    };
  }
  return std::make_unique<WeightedLayer>(context, spec, plan, mask_gradient);
}

}  // namespace annulus
