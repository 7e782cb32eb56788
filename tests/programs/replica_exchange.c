/*
 * Replica exchange (parallel tempering) of the two-dimensional Ising model, J = 1, no field, periodic boundaries.
 *
 * One MPI rank is one replica at one temperature. A sweep is L*L heat-bath updates of sites drawn at random. Every
 * --exchange-every sweeps neighbouring temperatures offer each other their configurations, even pairs and odd pairs
 * in turn, accepted with min(1, exp((1/T_i - 1/T_j) (E_i - E_j))): detailed balance in the product ensemble.
 *
 * In the directory --out (shared by all ranks) every rank writes replica-RANK.dat, one line a measured sweep: sweep,
 * energy, magnetisation; and, if asked, checkpoints. Two generations of checkpoint are kept, each written to a
 * temporary file, synced and renamed, and none is begun before all ranks have finished the one before: so there is
 * always one that all ranks have, and --restart goes on from it with the very trajectory of an unbroken run.
 *
 * For L <= 4 rank 0 visits all 2^(L*L) states and compares. Exit status: 0 all well; 1 some |z| > 5 or a value that
 * is not a number; 2 wrong usage; 3 files or checkpoints that cannot be used.
 *
 * Build: mpicc -O2 -o replica_exchange replica_exchange.c -lm
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { EXIT_PHYSICS = 1, EXIT_USAGE = 2, EXIT_FILES = 3 };
enum { LARGEST_EXACT = 4, LARGEST_L = 1024, FEWEST_BLOCKS = 64, PATH_SIZE = 4096, VISIBLE_WITHIN_SECONDS = 30 };
static const double LARGEST_Z = 5.0;

typedef struct {
    long side, sweeps, thermalize, exchange_every, checkpoint_every;
    uint64_t seed;
    double t_min, t_max;
    const char *directory;
    int restart;
} Options;

typedef struct {
    int8_t *spins;
    long sites, energy, magnetisation;
    uint64_t random[4];
    long sweep; /* done so far, thermalisation included */
    long swaps_tried, swaps_accepted;
    double up_probability[5]; /* by (sum of the four neighbours + 4) / 2 */
    double temperature;
    int *series; /* energies of the measured sweeps */
    FILE *output;
} Replica;

typedef struct {
    double temperature, mean, error, autocorrelation, acceptance;
} Row;

static int rank, ranks;

/* ---- ends ---- */

static void give_up(int code, const char *what, const char *path) {
    fprintf(stderr, "replica_exchange: rank %d: %s%s%s%s%s\n", rank, what, path ? " " : "", path ? path : "",
            code == EXIT_FILES && errno ? ": " : "", code == EXIT_FILES && errno ? strerror(errno) : "");
    MPI_Abort(MPI_COMM_WORLD, code);
    abort();
}

/* Wrong usage is seen by all ranks alike: rank 0 says so, and all end in order. */
static void usage(const char *what) {
    if (rank == 0)
        fprintf(stderr,
                "replica_exchange: %s\n"
                "usage: replica_exchange --out DIR [-L SIDE] [--sweeps N] [--thermalize N] [--exchange-every N]\n"
                "       [--seed N] [--tmin T] [--tmax T] [--checkpoint-every N] [--restart]\n",
                what);
    MPI_Finalize();
    exit(EXIT_USAGE);
}

/* ---- options ---- */

static long whole(const char *text, long least, long most, const char *name) {
    char *end, message[200];
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno || end == text || *end || value < least || value > most) {
        snprintf(message, sizeof message, "%s must be a whole number from %ld to %ld, not '%.40s'", name, least, most,
                 text);
        usage(message);
    }
    return value;
}

static double temperature(const char *text, const char *name) {
    char *end, message[200];
    double value = strtod(text, &end);
    if (end == text || *end || !isfinite(value) || value <= 0) {
        snprintf(message, sizeof message, "%s must be a temperature above 0, not '%.40s'", name, text);
        usage(message);
    }
    return value;
}

static Options parse(int argc, char **argv) {
    static const struct option names[] = {
        {"sweeps", 1, 0, 's'}, {"thermalize", 1, 0, 't'}, {"exchange-every", 1, 0, 'x'},   {"seed", 1, 0, 'r'},
        {"tmin", 1, 0, 'a'},   {"tmax", 1, 0, 'b'},       {"checkpoint-every", 1, 0, 'c'}, {"out", 1, 0, 'o'},
        {"restart", 0, 0, 'R'}, {0, 0, 0, 0}};
    Options o = {.side = 4, .sweeps = 20000, .thermalize = 1000, .exchange_every = 5, .seed = 1, .t_min = 1.5,
                 .t_max = 4};
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, "L:", names, NULL)) != -1;) switch (c) {
        case 'L': o.side = whole(optarg, 2, LARGEST_L, "-L"); break;
        case 's': o.sweeps = whole(optarg, FEWEST_BLOCKS, 100000000, "--sweeps"); break;
        case 't': o.thermalize = whole(optarg, 0, 100000000, "--thermalize"); break;
        case 'x': o.exchange_every = whole(optarg, 1, 100000000, "--exchange-every"); break;
        case 'r': o.seed = (uint64_t)whole(optarg, 0, INT64_MAX, "--seed"); break;
        case 'c': o.checkpoint_every = whole(optarg, 1, 100000000, "--checkpoint-every"); break;
        case 'a': o.t_min = temperature(optarg, "--tmin"); break;
        case 'b': o.t_max = temperature(optarg, "--tmax"); break;
        case 'o': o.directory = optarg; break;
        case 'R': o.restart = 1; break;
        default: usage("unknown option, or an option without its value");
        }
    if (optind < argc) usage("only options are understood");
    if (!o.directory || !*o.directory) usage("--out DIR is missing");
    if (o.t_max < o.t_min) usage("--tmax is below --tmin");
    return o;
}

/* Geometric ladder: with a nearly constant heat capacity neighbours then exchange equally often. */
static double ladder(const Options *o, int step) {
    return ranks == 1 ? o->t_min : o->t_min * pow(o->t_max / o->t_min, (double)step / (ranks - 1));
}

/* ---- random numbers: xoshiro256** seeded by splitmix64 (Blackman and Vigna) ---- */

static uint64_t splitmix(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t rotated(uint64_t x, int bits) { return (x << bits) | (x >> (64 - bits)); }

static uint64_t next_random(uint64_t *s) {
    uint64_t result = rotated(s[1] * 5, 7) * 9, shifted = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = rotated(s[3], 45);
    return result;
}

static double unit(uint64_t bits) { return (double)(bits >> 11) * 0x1p-53; }

/* The same number on both ranks of a pair, without a message. */
static double shared_uniform(uint64_t seed, uint64_t exchange, uint64_t lower) {
    uint64_t state = seed ^ 0x5851f42d4c957f2du;
    state = splitmix(&state) ^ exchange;
    state = splitmix(&state) ^ lower;
    return unit(splitmix(&state));
}

/* ---- the model ---- */

static long neighbours(const int8_t *spins, long side, long site) {
    long row = site / side, column = site % side;
    return spins[row * side + (column + 1) % side] + spins[row * side + (column + side - 1) % side] +
           spins[(row + 1) % side * side + column] + spins[(row + side - 1) % side * side + column];
}

/* Each bond once: half the sum over sites of -s times its neighbours. */
static long energy_of(const int8_t *spins, long side) {
    long twice = 0;
    for (long i = 0; i < side * side; i++) twice -= spins[i] * neighbours(spins, side, i);
    return twice / 2;
}

static long magnetisation_of(const int8_t *spins, long sites) {
    long sum = 0;
    for (long i = 0; i < sites; i++) sum += spins[i];
    return sum;
}

static void sweep(Replica *r, long side) {
    for (long n = 0; n < r->sites; n++) {
        long site = (long)(((unsigned __int128)next_random(r->random) * (uint64_t)r->sites) >> 64);
        long field = neighbours(r->spins, side, site);
        int spin = unit(next_random(r->random)) < r->up_probability[(field + 4) / 2] ? 1 : -1;
        long change = spin - r->spins[site]; /* 0, +2 or -2 */
        r->energy -= change * field;
        r->magnetisation += change;
        r->spins[site] = (int8_t)spin;
    }
}

static void exchange(Replica *r, const Options *o) {
    long round = r->sweep / o->exchange_every;
    int partner = (rank + round) % 2 == 0 ? rank + 1 : rank - 1;
    if (partner < 0 || partner >= ranks) return;
    long mine[2] = {r->energy, r->magnetisation}, theirs[2];
    MPI_Sendrecv(mine, 2, MPI_LONG, partner, 1, theirs, 2, MPI_LONG, partner, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    double log_ratio = (1 / r->temperature - 1 / ladder(o, partner)) * (double)(mine[0] - theirs[0]);
    r->swaps_tried++;
    if (shared_uniform(o->seed, (uint64_t)round, (uint64_t)(rank < partner ? rank : partner)) >= exp(log_ratio)) return;
    MPI_Sendrecv_replace(r->spins, (int)r->sites, MPI_INT8_T, partner, 2, partner, 2, MPI_COMM_WORLD,
                         MPI_STATUS_IGNORE);
    r->energy = theirs[0];
    r->magnetisation = theirs[1];
    r->swaps_accepted++;
}

/* ---- files ---- */

static void path_of(char *path, const Options *o, const char *suffix) {
    if (snprintf(path, PATH_SIZE, "%s/replica-%04d.%s", o->directory, rank, suffix) >= PATH_SIZE)
        give_up(EXIT_USAGE, "the name is too long:", o->directory);
}

static void checked_sync(FILE *file, const char *path) {
    if (fflush(file) || fsync(fileno(file))) give_up(EXIT_FILES, "cannot write", path);
}

/* Rank 0 makes the directory; the others wait until it can be seen on their hosts. */
static void make_directory(const char *directory) {
    struct stat status;
    if (rank == 0) {
        if (mkdir(directory, 0775) && errno != EEXIST) give_up(EXIT_FILES, "cannot make", directory);
        int handle = open(directory, O_RDONLY | O_DIRECTORY);
        if (handle < 0 || fsync(handle) || close(handle)) give_up(EXIT_FILES, "cannot sync", directory);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    for (int tenths = 0; stat(directory, &status); tenths++) {
        if (errno != ENOENT || tenths >= 10 * VISIBLE_WITHIN_SECONDS) give_up(EXIT_FILES, "cannot see", directory);
        usleep(100000);
    }
}

static const char *generation(const Replica *r, const Options *o) {
    return r->sweep / o->checkpoint_every % 2 ? "chk1" : "chk0";
}

static void write_checkpoint(Replica *r, const Options *o, const char *suffix) {
    char path[PATH_SIZE], temporary[PATH_SIZE + 8];
    path_of(path, o, suffix);
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    checked_sync(r->output, path); /* what a checkpoint speaks of exists */
    FILE *file = fopen(temporary, "w");
    if (!file) give_up(EXIT_FILES, "cannot write", temporary);
    fprintf(file, "replica_exchange 1\nL %ld seed %" PRIu64 " replicas %d rank %d T %a", o->side, o->seed, ranks, rank,
            r->temperature);
    fprintf(file, " exchange_every %ld thermalize %ld\n", o->exchange_every, o->thermalize);
    fprintf(file, "sweep %ld output_bytes %ld swaps %ld %ld\n", r->sweep, ftell(r->output), r->swaps_tried,
            r->swaps_accepted);
    for (int i = 0; i < 4; i++) fprintf(file, "%016" PRIx64 "\n", r->random[i]);
    for (long i = 0; i < r->sites; i++) putc(r->spins[i] > 0 ? '+' : '-', file);
    fprintf(file, "\nend\n");
    checked_sync(file, temporary);
    if (fclose(file) || rename(temporary, path)) give_up(EXIT_FILES, "cannot finish", path);
    MPI_Barrier(MPI_COMM_WORLD); /* the older generation may go only when all have this one */
}

/* Reads one generation; its sweep, or -1 where there is none. A damaged or foreign one ends the run. */
static long read_checkpoint(Replica *r, const Options *o, const char *suffix, long *bytes) {
    char path[PATH_SIZE], end[8] = "";
    long side = 0, every = 0, thermalize = 0, at = -1;
    int count = 0, number = -1;
    uint64_t seed = 0;
    double t = 0;
    path_of(path, o, suffix);
    FILE *file = fopen(path, "r");
    if (!file && errno == ENOENT) return -1;
    if (!file) give_up(EXIT_FILES, "cannot read", path);
    int fields = fscanf(file, "replica_exchange 1 L %ld seed %" SCNu64 " replicas %d rank %d T %la", &side, &seed,
                        &count, &number, &t);
    fields += fscanf(file, " exchange_every %ld thermalize %ld", &every, &thermalize);
    errno = 0;
    if (fields != 7) give_up(EXIT_FILES, "not a whole checkpoint:", path);
    if (side != o->side || seed != o->seed || count != ranks || number != rank || t != r->temperature ||
        every != o->exchange_every || thermalize != o->thermalize)
        give_up(EXIT_FILES, "of a run with other options or another number of ranks:", path);
    fields = fscanf(file, " sweep %ld output_bytes %ld swaps %ld %ld", &at, bytes, &r->swaps_tried, &r->swaps_accepted);
    for (int i = 0; i < 4; i++) fields += fscanf(file, "%" SCNx64, &r->random[i]);
    if (fields != 8 || getc(file) != '\n') give_up(EXIT_FILES, "not a whole checkpoint:", path);
    for (long i = 0; i < r->sites; i++) r->spins[i] = getc(file) == '+' ? 1 : -1;
    if (fscanf(file, "%7s", end) != 1 || strcmp(end, "end")) give_up(EXIT_FILES, "not a whole checkpoint:", path);
    fclose(file);
    return at;
}

/* Cuts the output back to the checkpoint and reads the measured energies again. */
static void reopen_output(Replica *r, const Options *o, const char *path, long bytes) {
    long number, magnetisation;
    r->output = fopen(path, "r+");
    if (!r->output) give_up(EXIT_FILES, "cannot open", path);
    if (ftruncate(fileno(r->output), bytes)) give_up(EXIT_FILES, "cannot cut", path);
    errno = 0;
    if (fscanf(r->output, "%*[^\n]") == EOF) give_up(EXIT_FILES, "empty, but a checkpoint speaks of it:", path);
    for (long n = 0; n < r->sweep - o->thermalize; n++)
        if (fscanf(r->output, "%ld %d %ld", &number, &r->series[n], &magnetisation) != 3 || number != n + 1)
            give_up(EXIT_FILES, "shorter than its checkpoint says:", path);
    if (fseek(r->output, bytes, SEEK_SET)) give_up(EXIT_FILES, "cannot seek in", path);
}

static void restart(Replica *r, const Options *o) {
    char path[PATH_SIZE];
    long bytes[2] = {0, 0}, at[2], newest, common;
    static const char *suffixes[2] = {"chk0", "chk1"};
    for (int i = 0; i < 2; i++) at[i] = read_checkpoint(r, o, suffixes[i], &bytes[i]);
    newest = at[0] > at[1] ? at[0] : at[1];
    MPI_Allreduce(&newest, &common, 1, MPI_LONG, MPI_MIN, MPI_COMM_WORLD);
    errno = 0;
    if (common < 0) give_up(EXIT_FILES, "no checkpoint that all ranks have in", o->directory);
    int which = at[0] == common ? 0 : 1;
    if (at[which] != common) give_up(EXIT_FILES, "the checkpoints of the ranks do not fit together in", o->directory);
    if (common > o->thermalize + o->sweeps)
        give_up(EXIT_FILES, "the checkpoint has more sweeps than asked for in", o->directory);
    r->sweep = read_checkpoint(r, o, suffixes[which], &bytes[which]);
    r->energy = energy_of(r->spins, o->side);
    r->magnetisation = magnetisation_of(r->spins, r->sites);
    path_of(path, o, "dat");
    reopen_output(r, o, path, bytes[which]);
    if (rank == 0) printf("restarted after %ld sweeps\n", r->sweep);
}

static void start(Replica *r, const Options *o) {
    char path[PATH_SIZE];
    uint64_t state = o->seed * 0x2545f4914f6cdd1du + (uint64_t)rank;
    for (int i = 0; i < 4; i++) r->random[i] = splitmix(&state);
    for (long i = 0; i < r->sites; i++) r->spins[i] = next_random(r->random) >> 63 ? 1 : -1;
    r->energy = energy_of(r->spins, o->side);
    r->magnetisation = magnetisation_of(r->spins, r->sites);
    path_of(path, o, "dat");
    r->output = fopen(path, "w");
    if (!r->output) give_up(EXIT_FILES, "cannot write", path);
    fprintf(r->output, "# replica %d of %d, L %ld, T %.17g, seed %" PRIu64 ": sweep energy magnetisation\n", rank,
            ranks, o->side, r->temperature, o->seed);
}

/* ---- the run ---- */

static Replica prepare(const Options *o) {
    Replica r = {.sites = o->side * o->side, .temperature = ladder(o, rank)};
    r.spins = malloc((size_t)r.sites);
    r.series = malloc((size_t)o->sweeps * sizeof *r.series);
    if (!r.spins || !r.series) give_up(EXIT_USAGE, "not enough memory", NULL);
    for (int i = 0; i < 5; i++) r.up_probability[i] = 1 / (1 + exp(-2.0 * (2 * i - 4) / r.temperature));
    make_directory(o->directory);
    if (o->restart)
        restart(&r, o);
    else
        start(&r, o);
    MPI_Barrier(MPI_COMM_WORLD);
    return r;
}

static void run(Replica *r, const Options *o) {
    long total = o->thermalize + o->sweeps;
    while (r->sweep < total) {
        sweep(r, o->side);
        r->sweep++;
        if (r->sweep % o->exchange_every == 0) exchange(r, o);
        long measured = r->sweep - o->thermalize;
        if (measured > 0) {
            r->series[measured - 1] = (int)r->energy;
            if (fprintf(r->output, "%ld %ld %ld\n", measured, r->energy, r->magnetisation) < 0)
                give_up(EXIT_FILES, "cannot write in", o->directory);
        }
        if (o->checkpoint_every && r->sweep % o->checkpoint_every == 0) write_checkpoint(r, o, generation(r, o));
        if (rank == 0 && r->sweep * 10 / total != (r->sweep - 1) * 10 / total)
            printf("%3ld%%: %ld of %ld sweeps\n", r->sweep * 100 / total, r->sweep, total), fflush(stdout);
    }
    checked_sync(r->output, o->directory);
    if (r->energy != energy_of(r->spins, o->side)) give_up(EXIT_PHYSICS, "the running energy has gone wrong", NULL);
}

/* ---- analysis ---- */

static double error_of_mean(const int *series, long length, long block) {
    long blocks = length / block;
    double mean = 0, squares = 0;
    for (long b = 0; b < blocks; b++) {
        double sum = 0;
        for (long i = 0; i < block; i++) sum += series[b * block + i];
        double value = sum / (double)block, shift = value - mean;
        mean += shift / (double)(b + 1);
        squares += shift * (value - mean);
    }
    return sqrt(squares / (double)(blocks - 1) / (double)blocks);
}

/* Blocking: the mean's error from blocks as long as at least 64 of them allow, so that they are nearly independent. */
static Row analyse(const Replica *r, const Options *o) {
    long block = 1;
    double sum = 0;
    while (o->sweeps / (2 * block) >= FEWEST_BLOCKS) block *= 2;
    for (long i = 0; i < o->sweeps; i++) sum += r->series[i];
    double naive = error_of_mean(r->series, o->sweeps, 1), error = error_of_mean(r->series, o->sweeps, block);
    return (Row){.temperature = r->temperature,
                 .mean = sum / (double)o->sweeps,
                 .error = error,
                 .autocorrelation = 0.5 * error * error / (naive * naive),
                 .acceptance = r->swaps_tried ? (double)r->swaps_accepted / (double)r->swaps_tried : 0};
}

/* How many states have the energy index - 2 L L, by looking at every state. */
static void count_states(long side, long *states) {
    long sites = side * side;
    int8_t spins[LARGEST_EXACT * LARGEST_EXACT];
    memset(states, 0, (size_t)(4 * sites + 1) * sizeof *states);
    for (long state = 0; state < 1L << sites; state++) {
        for (long i = 0; i < sites; i++) spins[i] = state >> i & 1 ? 1 : -1;
        states[energy_of(spins, side) + 2 * sites]++;
    }
}

static double exact_energy(const long *states, long sites, double t) {
    double sum = 0, weighted = 0;
    for (long e = -2 * sites; e <= 2 * sites; e++) {
        double weight = (double)states[e + 2 * sites] * exp(-(double)(e + 2 * sites) / t);
        sum += weight;
        weighted += weight * (double)e;
    }
    return weighted / sum;
}

/* Prints the table; whether all is well. */
static int report(const Options *o, const Row *rows) {
    long sites = o->side * o->side, states[4 * LARGEST_EXACT * LARGEST_EXACT + 1];
    int exact_known = o->side <= LARGEST_EXACT, well = 1;
    if (exact_known) count_states(o->side, states);
    printf("\n%5s %8s %12s %12s %10s %7s %6s %9s\n", "rank", "T", "exact <E>", "measured <E>", "error", "z", "tau",
           "exchanged");
    for (int i = 0; i < ranks; i++) {
        const Row *row = &rows[i];
        double exact = exact_known ? exact_energy(states, sites, row->temperature) : 0;
        double z = (row->mean - exact) / row->error;
        int bad = exact_known ? !(fabs(z) <= LARGEST_Z) : !isfinite(row->mean) || !isfinite(row->error);
        if (bad) well = 0;
        printf("%5d %8.4f ", i, row->temperature);
        if (exact_known) printf("%12.5f %12.5f %10.5f %7.2f", exact, row->mean, row->error, z);
        else printf("%12s %12.3f %10.3f %7s", "-", row->mean, row->error, "-");
        printf(" %6.1f %8.1f%%%s\n", row->autocorrelation, 100 * row->acceptance, bad ? "  WRONG" : "");
    }
    if (exact_known)
        printf("exact: all %ld states of %ldx%ld; %s\n", 1L << sites, o->side, o->side,
               well ? "every |z| is at most 5" : "some |z| is above 5 or not a number");
    return well;
}

static void print_hosts(void) {
    char name[MPI_MAX_PROCESSOR_NAME] = "", *names = NULL;
    int length, hosts = 0;
    MPI_Get_processor_name(name, &length);
    if (rank == 0 && !(names = calloc((size_t)ranks, sizeof name))) give_up(EXIT_USAGE, "not enough memory", NULL);
    MPI_Gather(name, sizeof name, MPI_CHAR, names, sizeof name, MPI_CHAR, 0, MPI_COMM_WORLD);
    for (int i = 0; rank == 0 && i < ranks; i++) {
        int seen = 0;
        for (int j = 0; j < i; j++) seen |= !strcmp(names + i * (long)sizeof name, names + j * (long)sizeof name);
        if (seen) continue;
        hosts++;
        printf("host %s: ranks", names + i * (long)sizeof name);
        for (int j = i; j < ranks; j++)
            if (!strcmp(names + i * (long)sizeof name, names + j * (long)sizeof name)) printf(" %d", j);
        printf("\n");
    }
    if (rank == 0) printf("%d ranks on %d hosts\n", ranks, hosts), fflush(stdout);
    free(names);
}

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    Options o = parse(argc, argv);
    print_hosts();
    double begun = MPI_Wtime();
    Replica r = prepare(&o);
    run(&r, &o);
    Row row = analyse(&r, &o), *rows = rank == 0 ? calloc((size_t)ranks, sizeof *rows) : NULL;
    if (rank == 0 && !rows) give_up(EXIT_USAGE, "not enough memory", NULL);
    const int width = sizeof row / sizeof(double);
    MPI_Gather(&row, width, MPI_DOUBLE, rows, width, MPI_DOUBLE, 0, MPI_COMM_WORLD);
    int well = rank == 0 ? report(&o, rows) : 0;
    if (rank == 0) printf("%d replicas, %ld sweeps each, %.2f s\n", ranks, o.sweeps, MPI_Wtime() - begun);
    MPI_Bcast(&well, 1, MPI_INT, 0, MPI_COMM_WORLD);
    if (fclose(r.output)) give_up(EXIT_FILES, "cannot close a file in", o.directory);
    free(r.spins), free(r.series), free(rows);
    MPI_Finalize();
    return well ? 0 : EXIT_PHYSICS;
}
