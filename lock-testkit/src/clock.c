/* A wall clock that a test sets, for a server that is started with this library preloaded: every reading of the wall
 * clock is moved by the seconds that stand in a file. Other clocks are left alone. It allocates nothing. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long offset(void) {
    static int file = -1;
    char text[32];
    const char *path;
    ssize_t size;
    if (file < 0 && (path = getenv("LEASEHOLD_CLOCK_OFFSET")) != NULL) file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || (size = pread(file, text, sizeof text - 1, 0)) <= 0) return 0;
    text[size] = 0;
    return strtol(text, NULL, 10);
}

int clock_gettime(clockid_t id, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, id, now);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += offset();
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now)) return (time_t)-1;
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
