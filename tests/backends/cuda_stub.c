/* The CUDA driver's functions that the product calls, on ordinary memory and a clock of its own.

   An engine of the double of TensorRT moves the clock with `stub_spend`; `stub_live` counts what was
   taken and not given back. A handle that was cut to 32 bits is refused, as is one of no event. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INVALID 1
#define OUT_OF_MEMORY 2
#define HANDLE (0x7f0000000000ull)

static double clock_ms = 1.0;
static long live = 0;
static double events[64];
static int event_count = 0;
static uint64_t limit = 1ull << 32;

void stub_spend(double ms) { clock_ms += ms; }
long stub_live(void) { return live; }

int cuInit(unsigned flags) { return flags; }
int cuDeviceGet(int *device, int ordinal) { *device = 3; return ordinal; }
int cuDeviceGetName(char *name, int length, int device)
{
    strncpy(name, "NVIDIA Stub", length);
    return device != 3;
}
int cuDeviceGetAttribute(int *value, int which, int device)
{
    const char *said = getenv("CUDA_STUB_CAPABILITY");
    int capability = said ? atoi(said) : 89;
    *value = which == 75 ? capability / 10 : capability % 10;
    return device != 3;
}
int cuDriverGetVersion(int *version) { *version = 13020; return 0; }
int cuGetErrorName(int status, const char **name)
{
    *name = status == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_INVALID_VALUE";
    return 0;
}

int cuDevicePrimaryCtxRetain(void **context, int device)
{
    live++;
    *context = (void *)(HANDLE + 1);
    return device != 3;
}
int cuDevicePrimaryCtxRelease_v2(int device) { live--; return device != 3; }
int cuCtxSetCurrent(void *context) { return context != (void *)(HANDLE + 1); }
int cuCtxSynchronize(void) { return 0; }

int cuStreamCreate(void **stream, unsigned flags)
{
    live++;
    *stream = (void *)(HANDLE + 2);
    return flags != 1;
}
int cuStreamSynchronize(void *stream) { return stream != (void *)(HANDLE + 2); }
int cuStreamDestroy_v2(void *stream) { live--; return stream != (void *)(HANDLE + 2); }

/* Addresses are those of the heap with a bit set beyond what 32 bits hold. */
int cuMemAlloc_v2(uint64_t *address, size_t size)
{
    void *found;
    if (size == 0)
        return INVALID;
    if (size > limit || !(found = malloc(size)))
        return OUT_OF_MEMORY;
    live++;
    *address = (uint64_t)(uintptr_t)found;
    return 0;
}
int cuMemFree_v2(uint64_t address) { live--; free((void *)(uintptr_t)address); return 0; }
int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t size)
{
    memcpy((void *)(uintptr_t)to, from, size);
    return 0;
}
int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t size)
{
    memcpy(to, (void *)(uintptr_t)from, size);
    return 0;
}

static double *event(void *handle)
{
    uint64_t index = (uint64_t)(uintptr_t)handle - HANDLE - 16;
    return index < 64 ? &events[index] : NULL;
}
int cuEventCreate(void **handle, unsigned flags)
{
    live++;
    *handle = (void *)(HANDLE + 16 + event_count++);
    return flags;
}
int cuEventDestroy_v2(void *handle) { live--; return !event(handle); }
int cuEventRecord(void *handle, void *stream)
{
    if (!event(handle) || stream != (void *)(HANDLE + 2))
        return INVALID;
    *event(handle) = clock_ms;
    return 0;
}
int cuEventSynchronize(void *handle) { return !event(handle); }
int cuEventElapsedTime(float *ms, void *start, void *stop)
{
    if (!event(start) || !event(stop))
        return INVALID;
    *ms = (float)(*event(stop) - *event(start));
    return 0;
}
