#include "kernels/convolution_layer.h"

#include <fmt/format.h>

#include <stdexcept>

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
                                              const dnnl::memory::desc& src, bool first, bool mask_gradient,
                                              const ChosenAlgorithms& chosen) {
  const TensorLayout input = onednn::layout_of(src);
  const int64_t images = input.dims[0], channels = input.dims[1];
  const ImageShape shape{static_cast<int>(channels), static_cast<int>(input.dims[2]),
                         static_cast<int>(input.dims[3])};
  const ImageShape out = output_shape(spec, shape);
  const onednn::Dims weight_dims{spec.out, channels, spec.kernel, spec.kernel};
  const onednn::Desc bias = bias_desc(spec);
  const onednn::Convolution convolution{.stride = stride_of(spec), .padding = spec.padding};
  const DataType type = context.type;
  const dnnl::engine engine = context.engine;
  const auto algorithm = [&](const char* pass) {
    const auto found = chosen.find({spec.name, pass});
    return found != chosen.end() ? found->second : choose_algorithm(spec, shape, images, type);
  };

  // The direct forward pass, left to itself, fixes the layout of the output for all passes.
  const auto free = onednn::convolution_forward(
      engine, convolution, src, onednn::any_desc(weight_dims, type), bias,
      onednn::any_desc({images, spec.out, out.height, out.width}, type), spec.relu);
  if (!free) throw std::runtime_error(fmt::format("layer {}: oneDNN has no kernel for forward", spec.name));
  const onednn::Desc dst = free.dst_desc();

  WeightedLayerPlan plan;
  plan.weight_dims = weight_dims;
  plan.fan_in = channels * spec.kernel * spec.kernel;
  plan.src = src;
  plan.dst = plan.diff_dst = dst;
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
