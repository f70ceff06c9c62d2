#include "runtime/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "tests/open_descriptors.h"
#include "tests/runtime/data_files.h"

namespace annulus {
namespace {

Bytes bytes_of_text(const std::string& text) { return {text.begin(), text.end()}; }

// A file with this header, as it is, and so many bytes of data.
Bytes file_with(const std::string& header, size_t data) {
  const uint64_t length = header.size();
  std::string text(8, '\0');
  std::memcpy(text.data(), &length, sizeof length);
  Bytes bytes = bytes_of_text(text + header);
  bytes.resize(bytes.size() + data, 7);
  return bytes;
}

// The same with spaces behind the header so that it is read at all.
Bytes padded(std::string header, size_t data) {
  header.resize((header.size() + 7) / 8 * 8, ' ');
  return file_with(header, data);
}

std::vector<TensorInfo> some_tensors() {
  std::vector<TensorInfo> tensors = {{.name = "conv1.weight", .shape = {2, 1, 3, 3}},
                                     {.name = "odd", .shape = {5}},
                                     {.name = "steps", .type = TensorType::kI64},
                                     {.name = "none", .shape = {0, 4}},
                                     {.name = "scalar"}};
  place_tensors(tensors);
  return tensors;
}

TEST(Safetensors, LieWithoutHolesThoseWithLargerElementsFirst) {
  const std::vector<TensorInfo> tensors = some_tensors();
  std::vector<std::pair<int64_t, int64_t>> places;
  for (const TensorInfo& tensor : tensors) places.emplace_back(tensor.begin, tensor.end);
  EXPECT_EQ(places,
            (std::vector<std::pair<int64_t, int64_t>>{{8, 80}, {80, 100}, {0, 8}, {100, 100}, {100, 104}}));
}

TEST(Safetensors, HaveAHeaderThatEndsOnACacheLineWithMetadataFirst) {
  for (size_t length = 0; length < 130; ++length) {
    const std::string head =
        safetensors_head({{"first", std::string(length, 'x')}, {"b", ""}}, some_tensors());
    EXPECT_EQ(head.size() % 64, 0U);
    uint64_t word = 0;
    std::memcpy(&word, head.data(), sizeof word);
    EXPECT_EQ(word + 8, head.size());
    EXPECT_EQ(head.find("{\"__metadata__\":{\"first\":\"xx"), length < 2 ? std::string::npos : 8U);
    const nlohmann::json json = nlohmann::json::parse(head.substr(8));
    EXPECT_EQ(json.at("conv1.weight"),
              nlohmann::json::parse(R"({"dtype":"F32","shape":[2,1,3,3],"data_offsets":[8,80]})"));
    EXPECT_EQ(json.at("steps"), nlohmann::json::parse(R"({"dtype":"I64","shape":[],"data_offsets":[0,8]})"));
    EXPECT_EQ(json.size(), 6U);
  }
}

TEST(Safetensors, AreReadAsTheyWereWritten) {
  const TempDir directory;
  const std::string config = "model: \"m\\n\"\npath: /tmp/\xC3\xA4\n", broken =
                                                                           "a\xFF"
                                                                           "b";
  Bytes bytes = bytes_of_text(safetensors_head({{"config", config}, {"path", broken}}, some_tensors()));
  const int64_t begin = std::ssize(bytes);
  for (int i = 0; i < 104; ++i) bytes.push_back(static_cast<uint8_t>(i));
  const int before = open_descriptors();
  {
    const SafetensorsFile file(directory.write("file", bytes));
    EXPECT_EQ(file.size(), std::ssize(bytes));
    EXPECT_EQ(file.data_begin(), begin);
    EXPECT_EQ(file.metadata().at("config"), config);
    EXPECT_EQ(file.metadata().at("path"),
              "a\xEF\xBF\xBD"
              "b");  // JSON has no such byte
    ASSERT_EQ(file.tensors().size(), 5U);
    for (const TensorInfo& tensor : some_tensors()) {
      ASSERT_NE(file.find(tensor.name), nullptr);
      EXPECT_EQ(*file.find(tensor.name), tensor);
      ASSERT_EQ(std::ssize(file.bytes(tensor)), tensor.end - tensor.begin);
      EXPECT_TRUE(tensor.begin == tensor.end || file.bytes(tensor)[0] == std::byte(tensor.begin));
    }
    EXPECT_EQ(file.find("conv1"), nullptr);
    float value = 0;
    std::memcpy(&value, bytes.data() + begin + 84, sizeof value);
    EXPECT_EQ(file.floats(*file.find("odd"))[1], value);
    Bytes read;
    file.read_all([&](int64_t offset, std::span<const uint8_t> piece) {
      EXPECT_EQ(offset, std::ssize(read));
      read.insert(read.end(), piece.begin(), piece.end());
    });
    EXPECT_EQ(read, bytes);
  }
  EXPECT_EQ(open_descriptors(), before);
}

TEST(Safetensors, AFileWithoutTensorsIsOne) {
  const TempDir directory;
  EXPECT_TRUE(SafetensorsFile(directory.write("file", padded("{}", 0))).tensors().empty());
}

// Reads a file of these bytes, which must be refused with this reason behind its name.
void expect_refused(const Bytes& bytes, const std::string& reason) {
  const TempDir directory;
  const std::string path = directory.write("file", bytes);
  const int before = open_descriptors();
  const std::string text = user_error([&] { SafetensorsFile{path}; });
  EXPECT_EQ(text.rfind(path + ": ", 0), 0U) << text;
  EXPECT_CONTAINS(text, reason);
  EXPECT_EQ(open_descriptors(), before);
}

TEST(Safetensors, ALengthThatCannotBeIsRefused) {
  expect_refused({}, "cut short: it has 0 bytes");
  expect_refused(Bytes(7), "cut short: it has 7 bytes");
  expect_refused(Bytes(8), "does not begin with {");
  expect_refused(Bytes(8, 0xFF), "announce a header of 18446744073709551615 bytes");
  Bytes bytes = padded("{}", 0);
  bytes[1] = 1;
  expect_refused(bytes, "cut short: its header ends at byte 272, the file at byte 16");
  expect_refused(file_with("{}", 0), "ends at byte 10, no multiple of 8");
}

TEST(Safetensors, AHeaderThatIsNoneIsRefused) {
  expect_refused(padded("", 8), "does not begin with {");
  expect_refused(padded(" {}", 0), "does not begin with {");
  expect_refused(padded("{\"a\":", 0), "no JSON from byte 17 on");
  expect_refused(padded("{\"a\xFF\":1}", 0), "no JSON from byte");
  expect_refused(padded("{}x", 0), "no JSON from byte");
  expect_refused(padded("{" + std::string(100'000, '['), 0), "no JSON from byte 10 on");
  expect_refused(padded("{\"a\":" + std::string(100'000, '[') + std::string(100'000, ']') + "}", 0),
                 "tensor a");
  expect_refused(padded("{\"__metadata__\":[]}", 0), "__metadata__ is no map");
  expect_refused(padded("{\"__metadata__\":{\"a\":1}}", 0), "__metadata__ has a that is no text");
}

std::string tensor(const std::string& type, const std::string& shape, const std::string& offsets) {
  return R"({"dtype":")" + type + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}
std::string header(const std::string& first, const std::string& second = "") {
  return "{\"a\":" + first + (second.empty() ? "" : ",\"b\":" + second) + "}";
}

TEST(Safetensors, TensorsThatAreNoneAreRefused) {
  const auto refused = [](const std::string& json, const std::string& reason) {
    expect_refused(padded(header(json), 8), reason);
  };
  for (const char* json : {"1", "[]", "{}", R"({"dtype":"F32","shape":[2]})",
                           R"({"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1})",
                           R"({"dtype":4,"shape":[2],"data_offsets":[0,8]})",
                           R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})",
                           R"({"dtype":"F32","shape":[2],"data_offsets":[0,8,9]})"}) {
    refused(json, "tensor a: its header is not dtype, shape and data_offsets");
  }
  refused(tensor("F16", "[4]", "[0,8]"), "its type is F16; Annulus reads F32 and I64");
  refused(tensor("F32", "[-2]", "[0,8]"), "has -2 where a size belongs");
  refused(tensor("F32", "[2.0]", "[0,8]"), "has 2.0 where a size belongs");
  refused(tensor("F32", "[2]", "[0,99999999999999999999]"), "where a size belongs");
  refused(tensor("F32", "[2]", "[0,18446744073709551615]"), "where a size belongs");
  refused(tensor("F32", "[4294967296,4294967296]", "[0,8]"), "shape [4294967296, 4294967296] is too large");
  refused(tensor("F32", "[1152921504606846976,2]", "[0,8]"), "is too large");
  refused(tensor("F32", "[3]", "[0,8]"), "F32 [3] takes 12 bytes, but lies from 0 to 8");
  refused(tensor("F32", "[1]", "[0,8]"), "F32 [1] takes 4 bytes, but lies from 0 to 8");
  refused(tensor("F32", "[2]", "[8,0]"), "takes 8 bytes, but lies from 8 to 0");
  refused(tensor("I64", "[]", "[0,4]"), "I64 [] takes 8 bytes");
}

TEST(Safetensors, PlacesThatAreNotOneBehindTheOtherAreRefused) {
  const std::string first = tensor("F32", "[2]", "[0,8]"), other = tensor("F32", "[2]", "[8,16]");
  const auto refused = [](const std::string& text, size_t data, const std::string& reason) {
    expect_refused(padded(text, data), reason);
  };
  refused(header(first, first), 8, "tensor b begins at byte 0 of the data, but a ends at byte 8");
  refused(header(first, tensor("F32", "[2]", "[4,12]")), 12, "tensor b begins at byte 4");
  refused(header(first, tensor("F32", "[2]", "[12,20]")), 20, "tensor b begins at byte 12");
  refused(header(other), 16, "tensor a begins at byte 8 of the data, but the data begins at byte 0");
  refused(header(tensor("F32", "[1]", "[0,4]"), tensor("I64", "[1]", "[4,12]")), 12, "no multiple");
  refused(header(first, other), 15, "cut short: tensor b ends at byte 16 of the data, of which there are 15");
  refused(header(first, other), 0, "cut short: tensor a ends at byte 8");
  refused(header(first, other), 17, "1 bytes too many behind its last tensor");
  refused(R"({"a":)" + first + R"(,"a":)" + first + "}", 8, "names a twice");
}

TEST(Safetensors, WhatIsNoFileIsRefused) {
  const TempDir directory;
  EXPECT_CONTAINS(user_error([&] { SafetensorsFile{directory.path("none")}; }), "No such file");
  EXPECT_CONTAINS(user_error([&] { SafetensorsFile{directory.path()}; }), "a directory");
  EXPECT_CONTAINS(user_error([&] { SafetensorsFile{"/dev/null"}; }), "a device");
}

}  // namespace
}  // namespace annulus
