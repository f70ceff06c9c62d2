#include "kernels/max_pool_layer.h"

#include <fmt/format.h>

#include <stdexcept>

#include "kernels/dnnl_compat.h"
#include "kernels/max_pool.h"
#include "kernels/parallel_for.h"
#include "telemetry/check.h"

namespace annulus {
namespace {

using onednn::Tag;

// The layouts that the kernels understand.
struct Activation {
  Tag tag;
  int block;  // channels that lie side by side; 0: all
};
constexpr Activation kActivations[] = {
    {Tag::nChw16c, 16}, {Tag::nChw8c, 8}, {Tag::nChw4c, 4}, {Tag::nchw, 1}, {Tag::nhwc, 0}};

class MaxPoolLayer final : public Layer {
 public:
  MaxPoolLayer(const LayerContext& context, const LayerSpec& spec, const onednn::Desc& src, bool first,
               bool relu_before)
      : context_(context), name_(spec.name), first_(first), relu_before_(relu_before) {
    const TensorLayout layout = onednn::layout_of(src);
    CHECK(layout.dims_count == 4, "{} dimensions", layout.dims_count);
    const onednn::Dims dims = onednn::dims_of(src);
    for (const Activation& activation : kActivations) {
      if (onednn::make_desc(dims, activation.tag) != src) continue;
      shape_.block = activation.block != 0 ? activation.block : static_cast<int>(dims[1]);
      shape_.planes = dims[0] * layout.padded_dims[1] / shape_.block;
      shape_.height = static_cast<int>(dims[2]);
      shape_.width = static_cast<int>(dims[3]);
      shape_.window = spec.kernel;
      dst_desc_ =
          onednn::make_desc({dims[0], dims[1], shape_.out_height(), shape_.out_width()}, activation.tag);
      return;
    }
    throw std::runtime_error(fmt::format("layer {}: max pooling cannot read layout {}", name_, layout.tag()));
  }

  const dnnl::memory::desc& dst_desc() const override { return dst_desc_; }

  LayerNeeds needs() const override { return {.in_place = true}; }

  void describe(int /*index*/, NetworkPlan& plan) const override {
    plan.kernels.push_back({name_, "forward", "maxpool", "", false});
    if (!first_) {
      plan.kernels.push_back({name_, "backward-data", relu_before_ ? "maxpool+relu" : "maxpool", "", false});
    }
  }

  void bind(const LayerBuffers& buffers) override { buffers_ = buffers; }

  void set_parameter_offsets(std::span<const int64_t> /*offsets*/) override {}

  void forward(const float* /*weights*/) override {
    parallel_for(context_.threads, shape_.planes, [this](int64_t begin, int64_t end) {
      max_pool_forward(shape_, begin, end, static_cast<const float*>(buffers_.src),
                       static_cast<float*>(buffers_.dst));
    });
  }

  void backward(const float* /*weights*/, float* /*gradients*/) override {
    if (first_) return;
    parallel_for(context_.threads, shape_.planes, [this](int64_t begin, int64_t end) {
      max_pool_backward(shape_, begin, end, static_cast<const float*>(buffers_.src),
                        static_cast<const float*>(buffers_.diff_dst), relu_before_,
                        static_cast<float*>(buffers_.diff_src));
    });
  }

 private:
  LayerContext context_;
  std::string name_;
  bool first_, relu_before_;
  MaxPoolShape shape_;
  onednn::Desc dst_desc_;
  LayerBuffers buffers_;
};

}  // namespace

std::unique_ptr<Layer> make_max_pool_layer(const LayerContext& context, const LayerSpec& spec,
                                           const dnnl::memory::desc& src, bool first, bool relu_before) {
  return std::make_unique<MaxPoolLayer>(context, spec, src, first, relu_before);
}

}  // namespace annulus
