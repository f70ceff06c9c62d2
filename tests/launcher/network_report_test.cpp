#include "launcher/network_report.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "runtime/models.h"
#include "runtime/network_yaml.h"

namespace annulus {
namespace {

const NetworkSpec kMlp = make_network("mlp", {1, 2, 3}, 10);

TEST(NetworkReport, IsTheNetworkWithATableInComments) {
  EXPECT_EQ(describe_network(kMlp, 1), R"(name: mlp
layers:
  - linear: {out: 256, relu: true}
  - linear: {out: 128, relu: true}
  - linear: {out: classes}

# Forward of 1 image of 1x2x3 (channels x height x width), 10 classes.
# A multiply-add is 2 FLOPs; backward takes about twice as many. Activations are fp32 outputs, none of them
# sharing memory; a run needs less.
#
# layer  kind     output  parameters   FLOPs  activation bytes
# fc1    linear  256x1x1       1,792   3,072             1,024
# fc2    linear  128x1x1      32,896  65,536               512
# fc3    linear   10x1x1       1,290   2,560                40
# total                       35,978  71,168             1,576
)");
}

TEST(NetworkReport, CountsABatchsOperationsAndMemory) {
  const std::string text = describe_network(kMlp, 100);
  EXPECT_NE(text.find("Forward of 100 images of 1x2x3"), std::string::npos) << text;
  EXPECT_NE(text.find(" 35,978  7,116,800           157,600\n"), std::string::npos) << text;
}

TEST(NetworkReport, JsonHasTheSameFigures) {
  const std::string text = network_json(kMlp, 100);
  EXPECT_EQ(text.find('\n'), text.size() - 1);
  EXPECT_EQ(nlohmann::json::parse(text), nlohmann::json::parse(R"({
      "name": "mlp", "input": [1, 2, 3], "classes": 10, "batch": 100,
      "parameters": 35978, "flops": 7116800, "activation_bytes": 157600,
      "layers": [
        {"name": "fc1", "kind": "linear", "output": [256, 1, 1], "parameters": 1792, "flops": 307200,
         "activation_bytes": 102400},
        {"name": "fc2", "kind": "linear", "output": [128, 1, 1], "parameters": 32896, "flops": 6553600,
         "activation_bytes": 51200},
        {"name": "fc3", "kind": "linear", "output": [10, 1, 1], "parameters": 1290, "flops": 256000,
         "activation_bytes": 4000}]})"));
}

TEST(NetworkReport, IsReadBackWithItsTable) {
  for (const std::string& model : model_names()) {
    const NetworkSpec spec = make_network(model, {3, 32, 32}, 10);
    const NetworkFile file = parse_network(describe_network(spec, 64), "x.yaml");
    EXPECT_EQ(resolve_network(file, {3, 32, 32}, 10), spec);
  }
}

}  // namespace
}  // namespace annulus
