"""Train a classifier of noised images, for guidance.

    mpirun -n 2 python scripts/classifier_train.py --data_dir DIR --val_data_dir DIR \\
        --image_size 64 --num_classes 10 --iterations 150000 --anneal_lr True

Files are those of image_train.py, and the same command with --resume auto goes on where it was
stopped. The log has train_loss, train_acc@1, train_acc@5 and the same of val_data_dir.
"""

from flatdiff.flags import config


def main():
    config.run(
        __doc__,
        train,
        unread="model",
        run=config.RunFlags,
        data=config.DataFlags,
        train=config.ClassifierTrainFlags,
        classifier=config.ClassifierFlags,
        diffusion=config.DiffusionFlags,
        model=config.ModelFlags,
    )


def train(flags):
    from flatdiff import rng
    from flatdiff.models import networks
    from flatdiff.train import classifier_util, starting

    resume_checkpoint = starting.start_training(flags)
    classifier = flags.classifier
    dataset = starting.training_data(
        flags, resume_checkpoint, classifier.image_size, classifier.num_classes
    )
    rng.seed_all(flags.run.seed)
    model, diffusion = networks.build_classifier(classifier, flags.diffusion)
    loop = starting.training_loop(
        flags,
        model,
        classifier_util.Classification(diffusion, flags.train.noised),
        dataset,
        resume_checkpoint,
        **classifier_util.loop_arguments(flags, dataset),
    )
    starting.describe(flags, loop, dataset)
    loop.run_loop()


if __name__ == "__main__":
    main()
