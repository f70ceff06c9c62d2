#include "kernels/convolution_layer.h"

#include "kernels/dnnl_compat.h"
#include "kernels/weighted_layer.h"

namespace annulus {
namespace {

// Calls make(convolution) with Winograd if wanted, and with the direct algorithm otherwise or where there is
// no Winograd.
template <typename Maker>
dnnl::primitive_desc make_pass(ConvolutionAlgorithm wanted, onednn::Convolution convolution,
                               const Maker& make) {
  if (wanted == ConvolutionAlgorithm::kWinograd) {
    convolution.winograd = true;
    if (dnnl::primitive_desc winograd = make(convolution)) return winograd;
    convolution.winograd = false;
  }
  return make(convolution);
}

}  // namespace

std::unique_ptr<Layer> make_convolution_layer(const LayerContext& context, const LayerSpec& spec,
                                              const dnnl::memory::desc& seen_src, bool first,
                                              bool mask_gradient, const ChosenAlgorithms& chosen) {
  const TensorLayout input = onednn::layout_of(seen_src);
  const int64_t images = input.dims[0], channels = input.dims[1];
  const ImageShape shape{static_cast<int>(channels), static_cast<int>(input.dims[2]),
                         static_cast<int>(input.dims[3])};
  const ImageShape out = output_shape(spec, shape);
  const onednn::Convolution convolution{.stride = stride_of(spec), .padding = spec.padding};
  const DataType type = context.type;
  const dnnl::engine engine = context.engine;
  const auto algorithm = [&](const char* pass) {
    const auto found = chosen.find({spec.name, pass});
    return found != chosen.end() ? found->second : choose_algorithm(spec, shape, images, type);
  };

  // oneDNN sees all channels that blocks have room for: where a number of channels is no multiple of a block,
  // it has reference kernels alone for some passes.
  WeightedLayerPlan plan;
  plan.src = onednn::with_whole_blocks(seen_src);
  plan.trained_dims = plan.weight_dims = {spec.out, channels, spec.kernel, spec.kernel};
  plan.weight_dims[1] = onednn::dims_of(plan.src)[1];
  plan.fan_in = channels * spec.kernel * spec.kernel;
  // The direct forward pass, left to itself, fixes the layout of the output for all passes.
  const onednn::Desc any_dst = onednn::any_desc({images, spec.out, out.height, out.width}, type);
  const auto fixing =
      onednn::convolution_forward(engine, convolution, plan.src, onednn::any_desc(plan.weight_dims, type),
                                  bias_desc(spec, spec.out), any_dst, spec.relu);
  if (!fixing) throw no_fast_kernel(spec, kForward, plan.src, any_dst, "");
  plan.seen_dst = fixing.dst_desc();
  plan.dst = plan.diff_dst = onednn::with_whole_blocks(plan.seen_dst);
  plan.weight_dims[0] = onednn::dims_of(plan.dst)[1];

  const onednn::Desc src = plan.src, dst = plan.dst, bias = bias_desc(spec, plan.weight_dims[0]);
  const auto free = onednn::convolution_forward(
      engine, convolution, src, onednn::any_desc(plan.weight_dims, type), bias, dst, spec.relu);
  if (!free) throw no_fast_kernel(spec, kForward, src, dst, "");
  plan.forward = [=, wanted = algorithm(kForward)](const onednn::Desc& weights) {
    return make_pass(wanted, convolution, [&](const onednn::Convolution& with) -> dnnl::primitive_desc {
      return onednn::convolution_forward(engine, with, src, weights, bias, dst, spec.relu);
    });
  };
  plan.backward_weights = [=, wanted = algorithm(kBackwardWeights)](const onednn::Desc& source,
                                                                    const onednn::Desc& weights) {
    return make_pass(wanted, convolution, [&](const onednn::Convolution& with) -> dnnl::primitive_desc {
      return onednn::convolution_backward_weights(engine, with, source, weights, bias, dst, free);
    });
  };
  if (!first) {
    plan.backward_data = [=, wanted = algorithm(kBackwardData)](const onednn::Desc& weights) {
      return make_pass(wanted, convolution, [&](const onednn::Convolution& with) -> dnnl::primitive_desc {
        return onednn::convolution_backward_data(engine, with, src, weights, dst, free);
      });
    };
  }
  return std::make_unique<WeightedLayer>(context, spec, plan, mask_gradient);
}

}  // namespace annulus
