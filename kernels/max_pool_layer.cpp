#include "kernels/max_pool_layer.h"

#include <string>

#include "kernels/dnnl_compat.h"
#include "kernels/max_pool.h"
#include "kernels/parallel_for.h"
#include "telemetry/check.h"

namespace annulus {
namespace {

class MaxPoolLayer final : public Layer {
 public:
  MaxPoolLayer(const LayerContext& context, const LayerSpec& spec, const onednn::Desc& src, bool first,
               bool relu_before)
      : context_(context), name_(spec.name), first_(first), relu_before_(relu_before) {
    const TensorLayout input = onednn::layout_of(src);
    CHECK(input.dims_count == 4, "{} dimensions", input.dims_count);
    const onednn::ActivationLayout layout = onednn::activation_layout(src);
    shape_.block = static_cast<int>(layout.channels);
    shape_.planes = input.dims[0] * input.padded_dims[1] / shape_.block;
    shape_.height = static_cast<int>(input.dims[2]);
    shape_.width = static_cast<int>(input.dims[3]);
    shape_.window = spec.kernel;
    shape_.stride = stride_of(spec);
    shape_.padding = spec.padding;
    shape_.type = context.type;
    dst_desc_ = onednn::make_desc({input.dims[0], input.dims[1], shape_.out_height(), shape_.out_width()},
                                  layout.tag, context.type);
  }

  const dnnl::memory::desc& dst_desc() const override { return dst_desc_; }

  LayerNeeds needs() const override { return {.saved = shape_.planes * shape_.out_plane_elements()}; }

  void describe(int /*index*/, NetworkPlan& plan) override {
    kernel_ = static_cast<int>(plan.kernels.size());
    plan.kernels.push_back({name_, kForward, "maxpool", "", false});
    if (!first_) {
      plan.kernels.push_back({name_, kBackwardData, relu_before_ ? "maxpool+relu" : "maxpool", "", false});
    }
  }

  void set_parameter_offsets(std::span<const int64_t> /*offsets*/) override {}

  void forward(const Portion& portion, const float* /*weights*/) override {
    each_part(kernel_, [&](int64_t begin, int64_t end) {
      max_pool_forward(shape_, begin, end, portion.src, relu_before_, portion.dst,
                       static_cast<uint8_t*>(portion.saved));
    });
  }

  void backward(const Portion& portion, const float* /*weights*/, float* /*gradients*/) override {
    if (first_) return;
    each_part(kernel_ + 1, [&](int64_t begin, int64_t end) {
      max_pool_backward(shape_, begin, end, static_cast<const uint8_t*>(portion.saved), portion.diff_dst,
                        portion.diff_src);
    });
  }

 private:
  template <typename Body>
  void each_part(int kernel, const Body& body) const {
    context_.timed(kernel, &KernelTime::kernel_ns,
                   [&] { parallel_for(context_.threads, shape_.planes, body); });
  }

  LayerContext context_;
  std::string name_;
  bool first_, relu_before_;
  MaxPoolShape shape_;
  onednn::Desc dst_desc_;
  int kernel_ = 0;  // its forward pass's number in the network's plan; backward's is the next
};

}  // namespace

std::unique_ptr<Layer> make_max_pool_layer(const LayerContext& context, const LayerSpec& spec,
                                           const dnnl::memory::desc& src, bool first, bool relu_before) {
  return std::make_unique<MaxPoolLayer>(context, spec, src, first, relu_before);
}

}  // namespace annulus
