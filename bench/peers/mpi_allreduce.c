/* MPI_Allreduce: sums of floats in place.
 *
 *     mpicc -O2 mpi_allreduce.c -o mpi_allreduce && mpirun -n 2 --bind-to core ./mpi_allreduce NAME [BYTES...]
 *
 * Rank 0 prints one JSON line per size. The time is rank 0's, from the end of a barrier to the end of the all-reduce.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

static int compare(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

static void measure(const char* name, int rank, int world, size_t bytes) {
  const size_t count = bytes / sizeof(float);
  const double sum = world * (world + 1) / 2.0;
  int rounds = (int)((200u << 20) / bytes);
  if (rounds < 5) rounds = 5;
  if (rounds > 2000) rounds = 2000;
  float* values = malloc(bytes);
  double* seconds = malloc(sizeof(double) * rounds);
  for (int round = -(rounds / 10 + 2); round < rounds; ++round) {
    for (size_t i = 0; i < count; ++i) values[i] = (float)(rank + 1);
    MPI_Barrier(MPI_COMM_WORLD);
    const double start = MPI_Wtime();
    MPI_Allreduce(MPI_IN_PLACE, values, (int)count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    if (round >= 0) seconds[round] = MPI_Wtime() - start;
    if (values[0] != sum || values[count - 1] != sum) {
      fprintf(stderr, "wrong sum\n");
      MPI_Abort(MPI_COMM_WORLD, 1);
    }
  }
  qsort(seconds, rounds, sizeof(double), compare);
  if (rank == 0) {
    const double median = seconds[rounds / 2];
    printf("{\"peer\": \"%s\", \"workers\": %d, \"bytes\": %zu, \"result\": \"each\", \"median_us\": %.1f, "
           "\"gbps\": %.3f}\n",
           name, world, bytes, median * 1e6, bytes / median / 1e9);
    fflush(stdout);
  }
  free(seconds);
  free(values);
}

int main(int argc, char** argv) {
  static const size_t kSizes[] = {4 << 10, 64 << 10, 1 << 20, 4 << 20, 25 << 20, 100 << 20};
  MPI_Init(&argc, &argv);
  int rank, world;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &world);
  const char* name = argc > 1 ? argv[1] : "mpi";
  if (argc > 2) {
    for (int i = 2; i < argc; ++i) measure(name, rank, world, strtoull(argv[i], NULL, 10));
  } else {
    for (size_t i = 0; i < sizeof kSizes / sizeof *kSizes; ++i) measure(name, rank, world, kSizes[i]);
  }
  MPI_Finalize();
  return 0;
}
