// Options as commands get them, from words and from files, and what is said where they are refused.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "launcher/options.h"

namespace annulus {

using Words = std::vector<const char*>;

inline TrainConfig train(Words words) {
  words.insert(words.begin(), "train");
  return parse_train(static_cast<int>(words.size()), words.data());
}

inline std::string refusal(const std::function<void()>& action) {
  try {
    action();
  } catch (const UserError& error) {
    return error.what();
  }
  return "(accepted)";
}

inline std::string refusal(const Words& words) {
  return refusal([&] { train(words); });
}

// A YAML file that lives as long as the test.
class ConfigFile {
 public:
  explicit ConfigFile(const std::string& text) {
    static int number = 0;
    path_ =
        ::testing::TempDir() + "annulus_options_" + std::to_string(getpid()) + "_" + std::to_string(number++);
    std::ofstream(path_) << text;
  }
  ~ConfigFile() { std::filesystem::remove(path_); }
  const char* path() const { return path_.c_str(); }

  // What is refused, without the file's name.
  std::string refusal() const {
    std::string text = annulus::refusal({"--config", path()});
    const size_t at = text.find(path_);
    return at == text.npos ? text : text.replace(at, path_.size(), "FILE");
  }

 private:
  std::string path_;
};

}  // namespace annulus
