#include "kernels/convolution_layer.h"

#include <fmt/format.h>

#include <stdexcept>

#include "kernels/dnnl_compat.h"
#include "kernels/weighted_layer.h"

namespace annulus {

std::unique_ptr<Layer> make_convolution_layer(const LayerContext& context, const LayerSpec& spec,
                                              const dnnl::memory::desc& src, bool first, bool mask_gradient) {
  const TensorLayout input = onednn::layout_of(src);
  const int64_t batch = input.dims[0], channels = input.dims[1];
  const ImageShape out = output_shape(
      spec, {static_cast<int>(channels), static_cast<int>(input.dims[2]), static_cast<int>(input.dims[3])});
  const onednn::Dims weight_dims{spec.out, channels, spec.kernel, spec.kernel};
  const onednn::Desc bias = onednn::make_desc({spec.out}, onednn::Tag::a);
  const int padding = spec.padding;

  // The forward pass, left to itself, fixes the layout of the output for all passes.
  const auto free = onednn::convolution_forward(context.engine, src, onednn::any_desc(weight_dims), bias,
                                                onednn::any_desc({batch, spec.out, out.height, out.width}),
                                                padding, spec.relu);
  if (!free) throw std::runtime_error(fmt::format("layer {}: oneDNN has no kernel for forward", spec.name));
  const onednn::Desc dst = free.dst_desc();

  const dnnl::engine engine = context.engine;
  WeightedLayerPlan plan;
  plan.weight_dims = weight_dims;
  plan.fan_in = channels * spec.kernel * spec.kernel;
  plan.src = src;
  plan.dst = dst;
  plan.forward = [=](const onednn::Desc& weights) -> dnnl::primitive_desc {
    return onednn::convolution_forward(engine, src, weights, bias, dst, padding, spec.relu);
  };
  plan.backward_weights = [=](const onednn::Desc& source,
                              const onednn::Desc& weights) -> dnnl::primitive_desc {
    return onednn::convolution_backward_weights(engine, source, weights, bias, dst, padding, free);
  };
  if (!first) {
    plan.backward_data = [=](const onednn::Desc& weights) -> dnnl::primitive_desc {
      return onednn::convolution_backward_data(engine, src, weights, dst, padding, free);
    };
  }
  return std::make_unique<WeightedLayer>(context, spec, plan, mask_gradient);
}

}  // namespace annulus
