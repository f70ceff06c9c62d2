// Binding and its read-back on this machine, as forked workers. On a machine with several NUMA nodes, such as
// the one in tests/end_to_end/numa_vm.sh, it proves placement; on one node it proves the plumbing.
#include "launcher/residency.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "launcher/cpu_list.h"
#include "launcher/machine.h"
#include "launcher/placement.h"

namespace annulus {
namespace {

size_t page() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

// A memfd of `bytes`, not yet reserved, and this process's shared mapping of it.
class SharedMemory {
 public:
  explicit SharedMemory(size_t bytes) : bytes_(bytes) {
    descriptor_ = memfd_create("residency_test", MFD_CLOEXEC);
    if (descriptor_ < 0 || ftruncate(descriptor_, static_cast<off_t>(bytes)) != 0) return;
    void* map = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor_, 0);
    if (map != MAP_FAILED) base_ = static_cast<char*>(map);
  }
  ~SharedMemory() {
    if (base_) munmap(base_, bytes_);
    if (descriptor_ >= 0) close(descriptor_);
  }

  char* base() const { return base_; }
  bool reserve() const { return posix_fallocate(descriptor_, 0, static_cast<off_t>(bytes_)) == 0; }

 private:
  size_t bytes_;
  int descriptor_ = -1;
  char* base_ = nullptr;
};

// Runs `body` in a child and returns its exit status, or 128 + signal.
int in_child(const std::function<int()>& body) {
  pid_t child = fork();
  if (child == 0) {
    alarm(60);
    _exit(body());
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

TEST(ResidencyTest, CountsPagesByNodeAndPagesThatAreNotThere) {
  constexpr size_t kPages = 5000;  // more than one chunk
  SharedMemory memory(kPages * page());
  ASSERT_NE(memory.base(), nullptr);
  PageResidency before = read_residency(0, memory.base(), kPages * page());
  if (!before.answer.ok()) GTEST_SKIP() << "SKIPPED: " << before.answer.refusal;
  EXPECT_EQ(before.pages, static_cast<int64_t>(kPages));
  EXPECT_EQ(before.not_present, static_cast<int64_t>(kPages));
  std::memset(memory.base(), 1, kPages / 2 * page());
  PageResidency after = read_residency(getpid(), memory.base(), kPages * page());
  EXPECT_EQ(after.present(), static_cast<int64_t>(kPages / 2));
  int64_t sum = 0;
  for (auto [node, count] : after.on_node) sum += count;
  EXPECT_EQ(sum, after.present());
  EXPECT_EQ(after.remote(-1), 0);
  EXPECT_EQ(after.remote(4095), after.present());
}

TEST(ResidencyTest, UnalignedRangesCountEveryPageTheyTouch) {
  SharedMemory memory(4 * page());
  std::memset(memory.base(), 1, 4 * page());
  PageResidency got = read_residency(0, memory.base() + page() - 1, 2);
  if (!got.answer.ok()) GTEST_SKIP() << "SKIPPED: " << got.answer.refusal;
  EXPECT_EQ(got.pages, 2);
  EXPECT_EQ(read_residency(0, memory.base(), 0).pages, 0);
}

TEST(ResidencyTest, SumsKeepTheFirstRefusal) {
  PageResidency sum{10, {{0, 8}}, 2, {}};
  sum += PageResidency{5, {{0, 1}, {1, 3}}, 1, {1, "no"}};
  sum += PageResidency{0, {}, 0, {2, "also no"}};
  EXPECT_EQ(sum.pages, 15);
  EXPECT_EQ(sum.present(), 12);
  EXPECT_EQ(sum.remote(0), 3);
  EXPECT_EQ(sum.remote(1), 9);
  EXPECT_EQ(sum.answer.refusal, "no");
}

TEST(ResidencyTest, ProcessThatIsGoneIsAnAnswerNotAnException) {
  pid_t child = fork();
  if (child == 0) _exit(0);
  waitpid(child, nullptr, 0);
  PageResidency pages = read_residency(child, &child, 1);
  EXPECT_FALSE(pages.answer.ok());
  EXPECT_NE(pages.answer.refusal.find(std::to_string(child)), std::string::npos) << pages.answer.refusal;
  EXPECT_FALSE(read_process_cpus(child).answer.ok());
}

TEST(ResidencyTest, BindingToACpuThatDoesNotExistIsRefusedWithAReason) {
  KernelAnswer thread = bind_thread(kLargestCpu);
  EXPECT_EQ(thread.error, EINVAL);
  EXPECT_NE(thread.refusal.find("CPU 65535"), std::string::npos) << thread.refusal;
}

TEST(ResidencyTest, UnpinnedAndSyntheticPlacesBindNothing) {
  Machine machine = Machine::this_machine();
  std::vector<int> before = read_process_cpus(0).cpus;
  WorkerPlace place;
  place.cpus = {before.front()};
  place.pinned = false;
  EXPECT_TRUE(bind_this_process(machine, place).ok());
  place.pinned = true;
  EXPECT_TRUE(bind_this_process(Machine::synthetic("numa:2 core:2 pu:1"), place).ok());
  EXPECT_EQ(read_process_cpus(0).cpus, before);
}

TEST(ResidencyTest, ThreadIsBoundToOneCpu) {
  int cpu = read_process_cpus(0).cpus.back();
  EXPECT_EQ(in_child([&] {
              if (!bind_thread(cpu).ok()) return 1;
              return read_process_cpus(0).cpus == std::vector<int>{cpu} ? 0 : 2;
            }),
            0);
}

// What the launcher does: plan, bind each worker's range of one memfd, reserve it all, fork, and look from
// outside.
TEST(ResidencyTest, EveryWorkerRunsOnItsCpusWithItsPagesOnItsNode) {
  Machine machine = Machine::this_machine();
  Placement plan = plan_placement(machine, {});
  const size_t bytes = 256 * page(), workers = plan.workers.size();
  SharedMemory memory(workers * bytes);
  ASSERT_NE(memory.base(), nullptr);
  for (size_t rank = 0; rank < workers; ++rank) {
    KernelAnswer answer =
        bind_range(machine, memory.base() + rank * bytes, bytes, plan.workers[rank].memory_node);
    if (!answer.ok()) GTEST_SKIP() << "SKIPPED: " << answer.refusal;
  }
  ASSERT_TRUE(memory.reserve());
  struct Child {
    pid_t process;
    int ready, go;
  };
  std::vector<Child> children;
  for (size_t rank = 0; rank < workers; ++rank) {
    int ready[2], go[2];
    ASSERT_EQ(pipe(ready), 0);
    ASSERT_EQ(pipe(go), 0);
    pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      alarm(60);
      char* mine = memory.base() + rank * bytes;
      close(go[1]);  // the parent's end alone keeps us waiting
      char answer = bind_this_process(machine, plan.workers[rank]).ok() ? 'y' : 'n';
      std::memset(mine, 1, bytes);
      std::vector<char> own(bytes, 1);  // private memory
      PageResidency residency = read_residency(0, own.data(), own.size());
      if (residency.answer.ok() && residency.remote(plan.workers[rank].memory_node) > 0) answer = 'r';
      if (write(ready[1], &answer, 1) != 1) _exit(1);
      char byte;
      _exit(read(go[0], &byte, 1) == 0 ? 0 : 1);
    }
    close(ready[1]);
    close(go[0]);
    children.push_back({child, ready[0], go[1]});
  }
  int64_t pages = 0, remote = 0;
  std::string refusal;
  for (size_t rank = 0; rank < workers; ++rank) {
    char answer = 0;
    ASSERT_EQ(read(children[rank].ready, &answer, 1), 1);
    EXPECT_EQ(answer, 'y') << "rank " << rank << (answer == 'r' ? ": private pages on another node" : "");
    EXPECT_EQ(read_process_cpus(children[rank].process).cpus, plan.workers[rank].cpus);
    PageResidency got = read_residency(children[rank].process, memory.base() + rank * bytes, bytes);
    if (!got.answer.ok()) refusal = got.answer.refusal;
    EXPECT_TRUE(!got.answer.ok() || got.not_present == 0) << got.not_present;
    EXPECT_EQ(got.remote(plan.workers[rank].memory_node), 0) << "rank " << rank;
    pages += got.present();
    remote += got.remote(plan.workers[rank].memory_node);
  }
  for (Child& child : children) close(child.go);  // all first: later children hold copies of earlier ends
  for (Child& child : children) {
    close(child.ready);
    int status = 0;
    waitpid(child.process, &status, 0);
    EXPECT_EQ(status, 0);
  }
  if (!refusal.empty()) GTEST_SKIP() << "SKIPPED: " << refusal;
  std::printf("%zu workers on %zu NUMA nodes: %lld pages read back, %lld remote\n", workers,
              machine.nodes().size(), static_cast<long long>(pages), static_cast<long long>(remote));
}

// The kernel's first touch would put pages next to the CPU anyway; only a policy puts them elsewhere.
TEST(ResidencyTest, PrivateMemoryFollowsTheNodeEvenAwayFromTheCpu) {
  Machine machine = Machine::this_machine();
  if (machine.nodes().size() < 2) GTEST_SKIP() << "SKIPPED: one NUMA node";
  WorkerPlace place;
  place.cpus = {machine.allowed_cpus().front()};
  place.memory_node = machine.nodes().back().os_index;
  EXPECT_EQ(in_child([&] {
              if (!bind_this_process(machine, place).ok()) return 1;
              constexpr size_t kBytes = 1 << 20;
              void* map = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
              if (map == MAP_FAILED) return 2;
              std::memset(map, 1, kBytes);
              PageResidency got = read_residency(0, map, kBytes);
              return got.answer.ok() && got.present() > 0 && got.remote(place.memory_node) == 0 ? 0 : 3;
            }),
            0);
}

// Makes the kernel answer EPERM to these system calls, as a container's filter does. For a child.
bool forbid(std::initializer_list<int> calls) {
  std::vector<sock_filter> filter = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
  for (int call : calls) {
    filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(call), 0, 1));
    filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM));
  }
  filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  sock_fprog program = {static_cast<unsigned short>(filter.size()), filter.data()};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

TEST(ResidencyTest, RefusalsOfAContainerAreAnswersWithAReason) {
  Machine machine = Machine::this_machine();
  Placement plan = plan_placement(machine, {.workers = 1});
  SharedMemory memory(page());
  int status = in_child([&] {
    if (!forbid({SYS_move_pages, SYS_mbind, SYS_set_mempolicy, SYS_sched_setaffinity})) return 77;
    auto explains = [](const KernelAnswer& answer) {
      return answer.error == EPERM && answer.refusal.find("SYS_NICE") != std::string::npos;
    };
    if (!explains(read_residency(0, memory.base(), page()).answer)) return 1;
    if (!explains(bind_thread(0))) return 2;
    if (!explains(bind_this_process(machine, plan.workers[0]))) return 3;
    if (machine.nodes().size() > 1 && !explains(bind_range(machine, memory.base(), page(), 0))) return 4;
    return 0;
  });
  if (status == 77) GTEST_SKIP() << "SKIPPED: this kernel takes no seccomp filter";
  EXPECT_EQ(status, 0);
}

TEST(ResidencyTest, InterleavedRangeIsSpreadOverTheNodes) {
  Machine machine = Machine::this_machine();
  std::vector<int> nodes;
  for (const MachineNode& node : machine.nodes()) {
    if (node.allowed && node.bytes > 0) nodes.push_back(node.os_index);
  }
  if (nodes.size() < 2) GTEST_SKIP() << "SKIPPED: one NUMA node";
  const int64_t each = 64;
  const size_t bytes = nodes.size() * each * page();
  SharedMemory memory(bytes);
  KernelAnswer answer = interleave_range(machine, memory.base(), bytes, nodes);
  if (!answer.ok()) GTEST_SKIP() << "SKIPPED: " << answer.refusal;
  ASSERT_TRUE(memory.reserve());
  std::memset(memory.base(), 1, bytes);
  PageResidency got = read_residency(0, memory.base(), bytes);
  ASSERT_TRUE(got.answer.ok()) << got.answer.refusal;
  for (int node : nodes) EXPECT_EQ(got.on_node[node], each) << "node " << node;
}

}  // namespace
}  // namespace annulus
