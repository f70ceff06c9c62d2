#include "runtime/synthetic_data.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace annulus {
namespace {

struct Images {
  std::vector<uint8_t> pixels, labels;
  bool operator==(const Images&) const = default;
};

Images make(const ImageShape& shape, int classes, SyntheticPart part, size_t count) {
  Images images{std::vector<uint8_t>(count * static_cast<size_t>(shape.pixels())),
                std::vector<uint8_t>(count)};
  make_synthetic_images(shape, classes, part, images.pixels, images.labels);
  return images;
}

uint64_t fnv1a(const std::vector<uint8_t>& bytes) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const uint8_t byte : bytes) hash = (hash ^ byte) * 0x100000001b3;
  return hash;
}

// Share of the test images that lie nearest to the mean of their own class's training images.
double nearest_mean_accuracy(const ImageShape& shape, int classes, const Images& train, const Images& test) {
  const auto pixels = static_cast<size_t>(shape.pixels());
  std::vector<double> means(static_cast<size_t>(classes) * pixels), counts(static_cast<size_t>(classes));
  for (size_t i = 0; i < train.labels.size(); ++i) {
    ++counts[train.labels[i]];
    for (size_t p = 0; p < pixels; ++p) means[train.labels[i] * pixels + p] += train.pixels[i * pixels + p];
  }
  for (size_t c = 0; c < counts.size(); ++c) {
    for (size_t p = 0; p < pixels; ++p) means[c * pixels + p] /= counts[c];
  }
  size_t right = 0;
  for (size_t i = 0; i < test.labels.size(); ++i) {
    std::vector<double> distances(static_cast<size_t>(classes));
    for (size_t c = 0; c < distances.size(); ++c) {
      for (size_t p = 0; p < pixels; ++p) {
        const double difference = test.pixels[i * pixels + p] - means[c * pixels + p];
        distances[c] += difference * difference;
      }
    }
    const auto nearest = std::min_element(distances.begin(), distances.end()) - distances.begin();
    right += nearest == test.labels[i];
  }
  return static_cast<double>(right) / static_cast<double>(test.labels.size());
}

TEST(SyntheticData, IsTheSameOnEveryMachine) {
  const Images images = make({3, 32, 32}, 10, SyntheticPart::kTrain, 100);
  EXPECT_EQ(fnv1a(images.pixels), 2589912485452784714u);
  EXPECT_EQ(fnv1a(images.labels), 256562703740110404u);
}

TEST(SyntheticData, AnImageDoesNotDependOnHowManyThereAre) {
  const Images few = make({1, 28, 28}, 10, SyntheticPart::kTest, 7);
  const Images many = make({1, 28, 28}, 10, SyntheticPart::kTest, 300);
  EXPECT_TRUE(std::equal(few.pixels.begin(), few.pixels.end(), many.pixels.begin()));
  EXPECT_TRUE(std::equal(few.labels.begin(), few.labels.end(), many.labels.begin()));
}

TEST(SyntheticData, TrainAndTestImagesDiffer) {
  const auto make_one = [](int classes, SyntheticPart part) { return make({1, 28, 28}, classes, part, 50); };
  EXPECT_NE(make_one(10, SyntheticPart::kTrain).labels, make_one(10, SyntheticPart::kTest).labels);
  // With one class the labels are equal, and the noise alone tells the parts from each other.
  EXPECT_NE(make_one(1, SyntheticPart::kTrain).pixels, make_one(1, SyntheticPart::kTest).pixels);
}

TEST(SyntheticData, CanBeLearned) {
  for (const ImageShape& shape : {ImageShape{3, 32, 32}, ImageShape{1, 28, 28}}) {
    const Images train = make(shape, 10, SyntheticPart::kTrain, 1000);
    const Images test = make(shape, 10, SyntheticPart::kTest, 200);
    EXPECT_GT(nearest_mean_accuracy(shape, 10, train, test), 0.9);
  }
}

TEST(SyntheticData, UsesEveryClassAndNoOther) {
  for (const int classes : {1, 10, 256}) {
    const Images images = make({1, 1, 1}, classes, SyntheticPart::kTrain, 8192);
    std::vector<int> counts(256);
    for (const uint8_t label : images.labels) ++counts[label];
    for (int c = 0; c < 256; ++c) {
      if (c < classes) {
        EXPECT_GT(counts[static_cast<size_t>(c)], 8192 / classes / 4) << "class " << c;
      } else {
        EXPECT_EQ(counts[static_cast<size_t>(c)], 0) << "class " << c;
      }
    }
  }
}

TEST(SyntheticData, TakesOddShapesAndNoImages) {
  EXPECT_EQ(make({3, 5, 7}, 4, SyntheticPart::kTrain, 3).pixels.size(), 315u);
  EXPECT_TRUE(make({1, 28, 28}, 10, SyntheticPart::kTrain, 0).labels.empty());
}

}  // namespace
}  // namespace annulus
