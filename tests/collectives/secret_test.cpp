#include "collectives/secret.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "telemetry/error.h"

namespace annulus {
namespace {

class SecretFile : public testing::Test {
 protected:
  void TearDown() override { std::filesystem::remove(path_); }

  void write(const std::string& content, mode_t mode = 0600) {
    std::ofstream(path_, std::ios::binary) << content;
    ASSERT_EQ(chmod(path_.c_str(), mode), 0);
  }

  std::string refusal() {
    try {
      read_secret(path_);
    } catch (const UserError& error) {
      return error.what();
    }
    return "taken";
  }

  const std::string path_ = testing::TempDir() + "annulus_secret_" + std::to_string(getpid());
};

std::string text_of(const Secret& secret) {
  return std::string(reinterpret_cast<const char*>(secret.bytes().data()), Secret::kBytes);
}

TEST_F(SecretFile, may_hold_digits_or_bytes) {
  std::string bytes, digits;
  for (int i = 0; i < 32; ++i) {
    bytes += static_cast<char>(i * 8 + 1);
    digits += fmt::format("{:02x}", i * 8 + 1);
  }
  std::string upper = digits;
  std::ranges::transform(upper, upper.begin(), [](char c) { return static_cast<char>(std::toupper(c)); });
  for (const std::string& content : {bytes, digits, digits + "\n", upper}) {
    write(content);
    EXPECT_EQ(text_of(read_secret(path_)), bytes);
  }
  write(digits, 0400);
  EXPECT_EQ(text_of(read_secret(path_)), bytes);
}

TEST_F(SecretFile, is_refused_with_a_remedy_where_it_is_not_one) {
  const auto expect_refused = [&](const std::string& why) {
    const std::string text = refusal();
    EXPECT_NE(text.find(path_), std::string::npos) << text;
    EXPECT_NE(text.find(why), std::string::npos) << text;
    EXPECT_NE(text.find("openssl rand -hex 32"), std::string::npos) << text;
  };
  expect_refused("No such file");
  const std::string digits(64, 'a');
  for (const std::string& content :
       {std::string(), std::string(31, 'x'), std::string(33, 'x'), digits + "a", digits + "\n\n",
        digits + "\n" + digits, digits.substr(1), std::string(5000, 'a')}) {
    write(content);
    expect_refused("neither 64 hexadecimal digits nor 32 bytes");
  }
  write("g" + digits.substr(1));
  expect_refused("hexadecimal digits");
  write(digits.substr(1) + " ");
  expect_refused("hexadecimal digits");
  std::filesystem::remove(path_);
  std::filesystem::create_directory(path_);
  expect_refused("not a regular file");
  std::filesystem::remove(path_);
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  expect_refused("not a regular file");
}

TEST_F(SecretFile, is_refused_where_others_may_use_it) {
  for (const mode_t mode : {0640, 0604, 0644, 0660, 0610}) {
    write(std::string(64, 'a'), mode);
    EXPECT_NE(refusal().find("chmod 600 " + path_), std::string::npos) << mode << ": " << refusal();
    ASSERT_EQ(refusal().find("aaaa"), std::string::npos);
  }
}

TEST(Secret, is_new_each_time) {
  EXPECT_NE(text_of(new_secret()), text_of(new_secret()));
  EXPECT_NE(text_of(new_secret()), std::string(32, '\0'));
}

TEST(Secret, leaves_nothing_behind) {
  alignas(Secret) std::byte room[sizeof(Secret)];
  Secret* const secret = new (room) Secret(new_secret());
  secret->~Secret();
  const volatile std::byte* const left = room;
  for (size_t i = 0; i < sizeof room; ++i) EXPECT_EQ(std::byte{left[i]}, std::byte{0});
}

}  // namespace
}  // namespace annulus
