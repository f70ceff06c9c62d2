#include "kernels/average_pool_layer.h"

#include <string>

#include "kernels/average_pool.h"
#include "kernels/dnnl_compat.h"
#include "kernels/parallel_for.h"

namespace annulus {
namespace {

class AveragePoolLayer final : public Layer {
 public:
  AveragePoolLayer(const LayerContext& context, const LayerSpec& spec, const onednn::Desc& src)
      : context_(context), name_(spec.name) {
    const TensorLayout input = onednn::layout_of(src);
    const onednn::ActivationLayout layout = onednn::activation_layout(src);
    shape_ = {.planes = input.dims[0] * input.padded_dims[1] / layout.channels,
              .pixels = input.dims[2] * input.dims[3],
              .block = static_cast<int>(layout.channels),
              .type = context.type};
    // Whole blocks of one pixel lie as plain channels do, and plain inputs have the best linear kernels.
    const bool plain = input.dims[1] == input.padded_dims[1];
    dst_desc_ = onednn::make_desc({input.dims[0], input.dims[1], 1, 1},
                                  plain ? onednn::Tag::nchw : layout.tag, context.type);
  }

  const dnnl::memory::desc& dst_desc() const override { return dst_desc_; }

  LayerNeeds needs() const override { return {}; }

  void describe(int /*index*/, NetworkPlan& plan) override {
    kernel_ = static_cast<int>(plan.kernels.size());
    plan.kernels.push_back({name_, kForward, "average_pool", "", false});
    plan.kernels.push_back({name_, kBackwardData, "average_pool", "", false});
  }

  void set_parameter_offsets(std::span<const int64_t> /*offsets*/) override {}

  void forward(const Portion& portion, const float* /*weights*/) override {
    context_.timed(kernel_, &KernelTime::kernel_ns, [&] {
      parallel_for(context_.threads, shape_.planes, [&](int64_t begin, int64_t end) {
        average_pool_forward(shape_, begin, end, portion.src, portion.dst);
      });
    });
  }

  void backward(const Portion& portion, const float* /*weights*/, float* /*gradients*/) override {
    if (portion.diff_src == nullptr) return;
    context_.timed(kernel_ + 1, &KernelTime::kernel_ns, [&] {
      parallel_for(context_.threads, shape_.planes, [&](int64_t begin, int64_t end) {
        average_pool_backward(shape_, begin, end, portion.diff_dst, portion.diff_src);
      });
    });
  }

 private:
  LayerContext context_;
  std::string name_;
  AveragePoolShape shape_;
  onednn::Desc dst_desc_;
  int kernel_ = 0;  // its forward pass's number in the network's plan; backward's is the next
};

}  // namespace

std::unique_ptr<Layer> make_average_pool_layer(const LayerContext& context, const LayerSpec& spec,
                                               const dnnl::memory::desc& src) {
  return std::make_unique<AveragePoolLayer>(context, spec, src);
}

}  // namespace annulus
