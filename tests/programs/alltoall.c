/*
 * Every rank sends every rank other numbers, and every number that arrives is checked.
 *
 * usage: alltoall [NUMBERS [ROUNDS]]      numbers a pair and round (default: 256), rounds (default: 20)
 * Build: mpicc -O2 -o alltoall alltoall.c
 *
 * Prints one line a rank with the name of its host, how many hosts there are, and the time that the start of MPI, the
 * first round (which makes all connections) and the later rounds took. Ends with 1 where a number is wrong.
 */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME = MPI_MAX_PROCESSOR_NAME };

/* What `from` sends to `to` as number `k` of a round: different for every place, and for every round. */
static uint64_t number(int from, int to, int k, int round) {
    uint64_t x = ((uint64_t)from << 48) ^ ((uint64_t)to << 32) ^ ((uint64_t)k << 12) ^ (uint64_t)round;
    x *= 0x9e3779b97f4a7c15u;
    return x ^ (x >> 29);
}

/* One round; the numbers that arrived wrong at this rank. */
static long exchange(int rank, int ranks, int numbers, int round, uint64_t *out, uint64_t *in) {
    long wrong = 0;
    for (int to = 0; to < ranks; to++)
        for (int k = 0; k < numbers; k++) out[(size_t)to * numbers + k] = number(rank, to, k, round);
    memset(in, 0xff, (size_t)ranks * numbers * sizeof *in);
    MPI_Alltoall(out, numbers, MPI_UINT64_T, in, numbers, MPI_UINT64_T, MPI_COMM_WORLD);
    for (int from = 0; from < ranks; from++)
        for (int k = 0; k < numbers; k++) wrong += in[(size_t)from * numbers + k] != number(from, rank, k, round);
    return wrong;
}

/* Rank 0 prints who is where. */
static void print_hosts(int rank, int ranks) {
    char name[NAME] = "";
    int length, distinct = 0;
    MPI_Get_processor_name(name, &length);
    char(*all)[NAME] = rank == 0 ? malloc((size_t)ranks * NAME) : NULL;
    MPI_Gather(name, NAME, MPI_CHAR, all, NAME, MPI_CHAR, 0, MPI_COMM_WORLD);
    if (rank != 0) return;
    for (int r = 0; r < ranks; r++) {
        int known = 0;
        for (int earlier = 0; earlier < r && !known; earlier++) known = !strcmp(all[r], all[earlier]);
        distinct += !known;
        printf("rank %d on %s\n", r, all[r]);
    }
    printf("%d ranks on %d hosts\n", ranks, distinct);
    free(all);
}

int main(int argc, char **argv) {
    double begun = MPI_Wtime();
    MPI_Init(&argc, &argv);
    double started = MPI_Wtime() - begun;
    int rank, ranks, numbers = argc > 1 ? atoi(argv[1]) : 256, rounds = argc > 2 ? atoi(argv[2]) : 20;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    if (numbers < 1 || numbers > 1 << 20 || rounds < 1 || rounds > 4096) {
        if (rank == 0) fprintf(stderr, "usage: alltoall [NUMBERS [ROUNDS]]\n");
        MPI_Finalize();
        return 2;
    }
    size_t bytes = (size_t)ranks * numbers * sizeof(uint64_t);
    uint64_t *out = malloc(bytes), *in = malloc(bytes);
    if (!out || !in) {
        fprintf(stderr, "rank %d: no memory for %zu bytes\n", rank, bytes);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    print_hosts(rank, ranks);

    double times[3] = {started, 0, 0};
    long wrong = 0, all_wrong;
    for (int round = 0; round < rounds; round++) {
        double before = MPI_Wtime();
        wrong += exchange(rank, ranks, numbers, round, out, in);
        times[round == 0 ? 1 : 2] += MPI_Wtime() - before;
    }
    double slowest[3];
    MPI_Reduce(times, slowest, 3, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
    MPI_Allreduce(&wrong, &all_wrong, 1, MPI_LONG, MPI_SUM, MPI_COMM_WORLD);
    if (rank == 0) {
        long sent = (long)ranks * ranks * numbers * rounds;
        printf("alltoall: %ld of %ld numbers wrong, %d a pair, %d rounds\n", all_wrong, sent, numbers, rounds);
        printf("seconds: init %.3f, first round %.3f, a later round %.4f\n", slowest[0], slowest[1],
               rounds > 1 ? slowest[2] / (rounds - 1) : 0.0);
    }
    free(out);
    free(in);
    MPI_Finalize();
    return all_wrong != 0;
}
