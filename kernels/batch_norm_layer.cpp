#include "kernels/batch_norm_layer.h"

#include <string>

#include "kernels/batch_norm.h"
#include "kernels/dnnl_compat.h"

namespace annulus {
namespace {

class BatchNormLayer final : public Layer {
 public:
  BatchNormLayer(const LayerContext& context, const LayerSpec& spec, const onednn::Desc& src)
      : context_(context),
        name_(spec.name),
        relu_(spec.relu),
        adds_(spec.addend != kNoActivation),
        desc_(src) {
    const TensorLayout input = onednn::layout_of(src);
    shape_.tensor_images = shape_.images = input.dims[0];
    shape_.channels = input.dims[1];
    shape_.pixels = input.dims[2] * input.dims[3];
    shape_.block = static_cast<int>(onednn::activation_layout(src).channels);
    shape_.type = context.type;
  }

  const dnnl::memory::desc& dst_desc() const override { return desc_; }

  LayerNeeds needs() const override {
    return {.saved = 4 * shape_.padded_channels() * static_cast<int64_t>(sizeof(float)),
            .reads_src = true,
            .reads_dst = relu_,
            .joins = true,
            .in_place = true};
  }

  void describe(int index, NetworkPlan& plan) override {
    const TensorLayout layout = onednn::layout_of(onednn::make_desc({shape_.channels}, onednn::Tag::a));
    const std::pair<const char*, ParameterRole> parameters[] = {
        {".weight", ParameterRole::kScale},
        {".bias", ParameterRole::kShift},
        {".running_mean", ParameterRole::kRunningMean},
        {".running_var", ParameterRole::kRunningVariance}};
    for (const auto& [suffix, role] : parameters) {
      plan.parameters.push_back({name_ + suffix, layout, index, 1, role});
    }
    kernel_ = static_cast<int>(plan.kernels.size());
    const std::string kernel = std::string("batch_norm") + (adds_ ? "+add" : "") + (relu_ ? "+relu" : "");
    plan.kernels.push_back({name_, kForward, kernel, "", false});
    plan.kernels.push_back({name_, kBackwardData, kernel, "", false});
  }

  void set_parameter_offsets(std::span<const int64_t> offsets) override {
    std::copy(offsets.begin(), offsets.end(), offsets_);
  }

  void forward(const Portion& portion, const float* weights) override {
    shape_.images = portion.images;
    const BatchNormForward tensors{.x = portion.src,
                                   .gamma = weights + offsets_[0],
                                   .beta = weights + offsets_[1],
                                   .addend = portion.addend,
                                   .relu = relu_,
                                   .y = portion.dst};
    context_.timed(kernel_, &KernelTime::kernel_ns, [&] {
      if (portion.training) {
        batch_norm_forward(shape_, context_.threads, tensors, statistics(portion));
      } else {
        batch_norm_inference(shape_, context_.threads, tensors, weights + offsets_[2], weights + offsets_[3]);
      }
    });
  }

  void backward(const Portion& portion, const float* weights, float* gradients) override {
    shape_.images = portion.images;
    const BatchStatistics saved = statistics(portion);
    context_.timed(kernel_ + 1, &KernelTime::kernel_ns, [&] {
      batch_norm_backward(shape_, context_.threads,
                          {.x = portion.src,
                           .y = relu_ ? portion.dst : nullptr,
                           .dy = portion.diff_dst,
                           .dy2 = portion.diff_dst2,
                           .mean = saved.mean,
                           .inv_std = saved.inv_std,
                           .gamma = weights + offsets_[0],
                           .dx = portion.diff_src != nullptr ? portion.diff_src : portion.diff_dst,
                           .diff_addend = portion.diff_addend,
                           .dgamma = gradients + offsets_[0],
                           .dbeta = gradients + offsets_[1]});
      for (int64_t channel = 0; channel < shape_.channels; ++channel) {
        gradients[offsets_[2] + channel] = portion.share * saved.batch_mean[channel];
        gradients[offsets_[3] + channel] = portion.share * saved.unbiased_variance[channel];
      }
    });
  }

 private:
  BatchStatistics statistics(const Portion& portion) const {
    auto* const saved = static_cast<float*>(portion.saved);
    const int64_t channels = shape_.padded_channels();
    return {saved, saved + channels, saved + 2 * channels, saved + 3 * channels};
  }

  LayerContext context_;
  std::string name_;
  bool relu_, adds_;
  onednn::Desc desc_;
  BatchNormShape shape_;
  int64_t offsets_[4] = {};
  int kernel_ = 0;  // its forward pass's number in the network's plan; backward's is the next
};

}  // namespace

std::unique_ptr<Layer> make_batch_norm_layer(const LayerContext& context, const LayerSpec& spec,
                                             const dnnl::memory::desc& src) {
  return std::make_unique<BatchNormLayer>(context, spec, src);
}

}  // namespace annulus
