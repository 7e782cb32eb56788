/*
 * Writes COUNT files of SIZE bytes in DIR and keeps them open for SECONDS, so that closing them can be made to fall
 * into a chosen moment. File N is DIR/held-N; byte I of it is (I * 31 + I / 4096 * 7 + N) modulo 251.
 *
 * usage: holder DIR COUNT SIZE SECONDS      prints "opened", and "closed N" for every close that succeeded
 * Build: mpicc -O2 -o holder holder.c (MPI is not used)
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int write_all(int file, long size, int number) {
    static unsigned char buffer[1 << 16];
    for (long at = 0; at < size;) {
        long length = size - at < (long)sizeof buffer ? size - at : (long)sizeof buffer;
        for (long i = 0; i < length; i++) buffer[i] = (unsigned char)(((at + i) * 31 + (at + i) / 4096 * 7 + number) % 251);
        long written = write(file, buffer, (size_t)length);
        if (written <= 0) return -1;
        at += written;
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 5) return fprintf(stderr, "usage: holder DIR COUNT SIZE SECONDS\n"), 2;
    int count = atoi(argv[2]), files[100];
    if (count < 1 || count > 100) return 2;
    for (int n = 0; n < count; n++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/held-%d", argv[1], n);
        files[n] = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0664);
        if (files[n] < 0 || write_all(files[n], atol(argv[3]), n)) return perror(path), 1;
    }
    printf("opened\n");
    fflush(stdout);
    sleep((unsigned)atoi(argv[4]));
    for (int n = 0; n < count; n++) {
        if (close(files[n])) return perror("close"), 1;
        printf("closed %d\n", n);
        fflush(stdout);
    }
    return 0;
}
