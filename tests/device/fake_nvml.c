/* A small libnvidia-ml.so.1 of our own: what PowerFlow's NVIDIA path needs, and nothing behind it.
 *
 * The GPUs stand in a file that a test maps as well (FAKE_NVML_STATE): it sets what they draw and what they refuse, and
 * sees which clocks were locked. Joules are integrated here, watts times real time. Layout: fake_nvml.py. */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
       DRIVER_NOT_LOADED = 9 };
enum { MOST_GPUS = 8, CLOCKS = 81 };

typedef struct {
    char uuid[96];
    char name[96];
    double power_w;      /* drawn now */
    double energy_mj;    /* joules * 1000 until energy_at_s */
    double energy_at_s;
    double counter_mod_mj; /* the counter wraps here; 0: never */
    double clock_mhz;    /* while free */
    double clock_cap_mhz; /* never above this, whatever it is locked to; 0: no cap */
    uint32_t locked_mhz; /* 0: free */
    uint32_t sets;       /* how often clocks were set or reset */
    uint32_t utilisation;
    uint32_t mig;        /* 0 off, 1 on, 2 not supported */
    int32_t every_error; /* what every call on it returns; 0: none */
    int32_t set_error;   /* what setting clocks returns */
    int32_t energy_error;
    int32_t power_error;
} Gpu;

typedef struct {
    uint32_t count;
    int32_t init_error;
    Gpu gpu[MOST_GPUS];
} State;

static State *state;

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    if (!state) {
        const char *path = getenv("FAKE_NVML_STATE");
        int file = path ? open(path, O_RDWR) : -1;
        if (file < 0) return DRIVER_NOT_LOADED;
        void *memory = mmap(0, sizeof(State), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        close(file);
        if (memory == MAP_FAILED) return DRIVER_NOT_LOADED;
        state = memory;
    }
    return state->init_error;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int code) {
    switch (code) {
    case 3: return "Not Supported";
    case 4: return "Insufficient Permissions";
    case 9: return "Driver Not Loaded";
    case 15: return "GPU is lost";
    default: return "an error of the fake NVML";
    }
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    if (!state) return UNINITIALIZED;
    *count = state->count;
    return SUCCESS;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Gpu **gpu) {
    if (!state) return UNINITIALIZED;
    if (index >= state->count) return INVALID_ARGUMENT;
    *gpu = &state->gpu[index];
    return (*gpu)->every_error;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, Gpu **gpu) {
    if (!state) return UNINITIALIZED;
    for (unsigned i = 0; i < state->count; i++)
        if (!strcmp(state->gpu[i].uuid, uuid)) return *gpu = &state->gpu[i], state->gpu[i].every_error;
    return NOT_FOUND;
}
int nvmlDeviceGetIndex(Gpu *g, unsigned *index) { return *index = (unsigned)(g - state->gpu), g->every_error; }

static int text(const Gpu *g, const char *from, char *to, unsigned size) {
    if (strlen(from) >= size) return INSUFFICIENT_SIZE;
    strcpy(to, from);
    return g->every_error;
}
int nvmlDeviceGetUUID(Gpu *g, char *to, unsigned size) { return text(g, g->uuid, to, size); }
int nvmlDeviceGetName(Gpu *g, char *to, unsigned size) { return text(g, g->name, to, size); }

int nvmlDeviceGetTotalEnergyConsumption(Gpu *g, unsigned long long *mj) {
    double now = now_s();
    g->energy_mj += g->power_w * (now - g->energy_at_s) * 1e3;
    g->energy_at_s = now;
    while (g->counter_mod_mj > 0 && g->energy_mj >= g->counter_mod_mj) g->energy_mj -= g->counter_mod_mj;
    *mj = (unsigned long long)g->energy_mj;
    return g->every_error ? g->every_error : g->energy_error;
}
int nvmlDeviceGetPowerUsage(Gpu *g, unsigned *mw) {
    *mw = (unsigned)(g->power_w * 1e3);
    return g->every_error ? g->every_error : g->power_error;
}
int nvmlDeviceGetClockInfo(Gpu *g, unsigned type, unsigned *mhz) {
    double clock = g->locked_mhz ? g->locked_mhz : g->clock_mhz;
    if (type > 3) return INVALID_ARGUMENT;
    if (g->clock_cap_mhz > 0 && clock > g->clock_cap_mhz) clock = g->clock_cap_mhz;
    *mhz = (unsigned)clock;
    return g->every_error;
}
int nvmlDeviceGetUtilizationRates(Gpu *g, unsigned rates[2]) {
    rates[0] = g->utilisation;
    rates[1] = 0;
    return g->every_error;
}
int nvmlDeviceGetSupportedMemoryClocks(Gpu *g, unsigned *count, unsigned *mhz) {
    if (g->every_error) return g->every_error;
    if (*count < 2) return *count = 2, INSUFFICIENT_SIZE;
    mhz[0] = 1593, mhz[1] = 405;
    return SUCCESS;
}
int nvmlDeviceGetSupportedGraphicsClocks(Gpu *g, unsigned memory, unsigned *count, unsigned *mhz) {
    if (g->every_error) return g->every_error;
    if (memory != 1593) return NOT_FOUND;
    if (*count < CLOCKS) return *count = CLOCKS, INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < CLOCKS; i++) mhz[i] = 1410 - 15 * i;
    return SUCCESS;
}
int nvmlDeviceSetGpuLockedClocks(Gpu *g, unsigned least, unsigned most) {
    if (g->every_error) return g->every_error;
    if (g->set_error) return g->set_error;
    if (least > most || most < 210 || least > 1410) return INVALID_ARGUMENT;
    g->locked_mhz = most;
    g->sets++;
    return SUCCESS;
}
int nvmlDeviceResetGpuLockedClocks(Gpu *g) {
    if (g->every_error) return g->every_error;
    if (g->set_error) return g->set_error;
    g->locked_mhz = 0;
    g->sets++;
    return SUCCESS;
}
int nvmlDeviceGetMigMode(Gpu *g, unsigned *current, unsigned *pending) {
    *current = *pending = g->mig;
    return g->every_error ? g->every_error : g->mig == 2 ? NOT_SUPPORTED : SUCCESS;
}
