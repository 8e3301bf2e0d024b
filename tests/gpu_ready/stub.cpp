// A CUDA device for a CPU build of PyTorch: it answers who asks, and computes nothing. FakeTensorMode
// needs a device guard, the hooks by which C++ asks for CUDA, and generators.
#include <ATen/core/Generator.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

using c10::DeviceIndex;
const c10::Device GPU(c10::kCUDA, 0);

// One stream, and one device that is always the current one.
class OneDevice final : public c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
 public:
  c10::Device getDevice() const override { return GPU; }
  c10::Device exchangeDevice(c10::Device) const override { return GPU; }
  c10::Stream getStream(c10::Device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, GPU);
  }
};

// It can be seeded, and that is all: fake tensors draw no numbers.
class Seed final : public c10::GeneratorImpl {
 public:
  Seed() : GeneratorImpl(GPU, c10::DispatchKeySet(c10::DispatchKey::CUDA)) {}
  uint64_t current_seed() const override { return seed_; }
  uint64_t seed() override { return seed_; }
  void set_current_seed(uint64_t seed) override { seed_ = seed; }
  uint64_t get_offset() const override { return offset_; }
  void set_offset(uint64_t offset) override { offset_ = offset; }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return nullptr; }
  void set_state(const c10::TensorImpl&) override {}

 private:
  Seed* clone_impl() const override { return new Seed(*this); }
  Seed(const Seed& other) : Seed() { seed_ = other.seed_; }
  uint64_t seed_ = 0, offset_ = 0;
};

}  // namespace

C10_REGISTER_GUARD_IMPL(CUDA, OneDevice)

namespace at {

class Answers final : public CUDAHooksInterface {
 public:
  explicit Answers(CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return 1; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  // cuDNN decides which layouts convolutions give
  bool hasCuDNN() const override { return true; }
  bool compiledWithCuDNN() const override { return true; }
  bool supportsDilatedConvolutionWithCuDNN() const override { return true; }
  bool supportsDepthwiseConvolutionWithCuDNN() const override { return true; }
  bool supportsBFloat16ConvolutionWithCuDNNv8() const override { return true; }
  long versionCuDNN() const override { return 91000; }
  long versionRuntimeCuDNN() const override { return 91000; }
  double batchnormMinEpsilonCuDNN() const override { return 1e-5; }
  const Generator& getDefaultGenerator(DeviceIndex) const override {
    static const Generator shared = make_generator<Seed>();
    return shared;
  }
  Generator getNewGenerator(DeviceIndex) const override { return make_generator<Seed>(); }
};

// Preferred to the hooks that a build without a driver may bring.
C10_REGISTER_TYPED_CREATOR_WITH_PRIORITY(
    CUDAHooksRegistry, "CUDAHooks", c10::REGISTRY_PREFERRED,
    RegistererCUDAHooksRegistry::DefaultCreator<Answers>)

}  // namespace at
