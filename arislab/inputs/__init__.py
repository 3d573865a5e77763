"""What comes in from elsewhere: files of any kind to rows of the lake, each as it stood there. It writes nothing."""
