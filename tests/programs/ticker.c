/*
 * Every rank prints a line every PERIOD milliseconds, TICKS times, and rank 0 one on stderr too. With DIR every tick
 * also writes, closes and leaves one file, DIR/RANK-TICK, whose content follows from its name.
 *
 * usage: ticker TICKS [PERIOD_MS [DIR [CODE]]]      an empty DIR is none; CODE is what rank 0 ends with
 * Build: mpicc -O2 -o ticker ticker.c
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* 1,000 lines "RANK TICK LINE". */
static int write_file(const char *directory, int rank, int tick) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%d-%d", directory, rank, tick);
    FILE *file = fopen(path, "w");
    if (!file) return perror(path), 1;
    for (int line = 0; line < 1000; line++) fprintf(file, "%d %d %d\n", rank, tick, line);
    return fclose(file) ? perror(path), 1 : 0;
}

int main(int argc, char **argv) {
    int rank, ranks, failures = 0, all_failures, length;
    char host[MPI_MAX_PROCESSOR_NAME];
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    MPI_Get_processor_name(host, &length);
    int ticks = argc > 1 ? atoi(argv[1]) : 10, period = argc > 2 ? atoi(argv[2]) : 100;
    for (int tick = 0; tick < ticks; tick++) {
        printf("tick %d rank %d of %d on %s\n", tick, rank, ranks, host);
        fflush(stdout);
        if (rank == 0) fprintf(stderr, "ticked %d\n", tick);
        if (argc > 3 && argv[3][0]) failures += write_file(argv[3], rank, tick);
        usleep((useconds_t)period * 1000);
    }
    MPI_Allreduce(&failures, &all_failures, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    MPI_Finalize();
    if (all_failures) return 1;
    if (rank == 0 && argc > 4 && atoi(argv[4])) {
        /* The others end first: a bad end makes mpirun end those that have not. */
        usleep(500000);
        return atoi(argv[4]);
    }
    return 0;
}
