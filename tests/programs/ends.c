/*
 * One rank ends badly while the others wait for it.
 *
 * usage: ends exit CODE | ends signal NUMBER [RANK]      RANK: which one (default: the last)
 * Build: mpicc -O2 -o ends ends.c
 */
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    if (argc < 3 || (strcmp(argv[1], "exit") && strcmp(argv[1], "signal"))) {
        if (rank == 0) fprintf(stderr, "usage: ends exit CODE | ends signal NUMBER [RANK]\n");
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    if (rank == (argc > 3 ? atoi(argv[3]) : ranks - 1)) {
        printf("rank %d ends by %s %s\n", rank, argv[1], argv[2]);
        fflush(stdout);
        if (!strcmp(argv[1], "exit")) _Exit(atoi(argv[2]));
        raise(atoi(argv[2]));
    }
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Finalize();
    return 0;
}
